// The browser of changes: filters above, changes below. Texts come from models: they are put into the page as text, never as markup.
(function () {
  var place = document.getElementById("browser");
  if (!place) return;
  var data = JSON.parse(document.getElementById("changes-data").textContent);
  var STEP = 12, shown = STEP;

  function make(tag, css, text) {
    var element = document.createElement(tag);
    if (css) element.className = css;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function choices(read) {
    var found = [];
    data.changes.forEach(function (change) {
      read(change).forEach(function (value) { if (found.indexOf(value) < 0) found.push(value); });
    });
    return found;
  }

  function principles(change) { return data.principles[change.arm] || []; }

  var FILTERS = [
    ["arm", function (change) { return [change.arm]; }],
    ["where", function (change) { return [change.place]; }],
    ["direction", function (change) { return [data.directions[change.direction]]; }],
    ["principle", principles],
    ["seed", function (change) { return [change.seed]; }]
  ].filter(function (filter) { return choices(filter[1]).length > 1; });

  var form = make("div", "filters");
  form.setAttribute("role", "search");
  form.setAttribute("aria-label", "Changes");
  var selects = FILTERS.map(function (filter) {
    var label = make("label", "", filter[0] + " ");
    var select = make("select");
    select.name = filter[0];
    [["", "all"]].concat(choices(filter[1]).map(function (value) { return [value, value]; })).forEach(function (pair) {
      var option = make("option", "", pair[1]);
      option.value = pair[0];
      select.appendChild(option);
    });
    label.appendChild(select);
    form.appendChild(label);
    return select;
  });
  var words = make("input");
  words.type = "search";
  words.name = "words";
  var wordsLabel = make("label", "", "words ");
  wordsLabel.appendChild(words);
  form.appendChild(wordsLabel);
  var count = make("p", "small");
  count.setAttribute("role", "status");
  var list = make("div", "changes");
  var more = make("button", "more", "Show more");
  more.type = "button";
  [form, count, list, more].forEach(function (part) { place.appendChild(part); });

  function texts(change) {
    var question = data.questions[change.question];
    return [question.text, change.item, change.before.text, change.after.text, change.before.note, change.after.note]
      .concat(question.candidates || []).filter(Boolean).join("\n").toLowerCase();
  }

  function matching() {
    var wanted = words.value.trim().toLowerCase();
    return data.changes.filter(function (change) {
      var fits = FILTERS.every(function (filter, index) {
        var value = selects[index].value;
        return value === "" || filter[1](change).indexOf(value) >= 0;
      });
      return fits && (wanted === "" || texts(change).indexOf(wanted) >= 0);
    });
  }

  function side(name, one, question) {
    var box = make("div", "side");
    box.appendChild(make("p", "who", name));
    if (one.note) box.appendChild(make("p", "note", one.note));
    if (!one.choices) {
      var answer = make("p", "", one.text || "(empty)");
      answer.dir = "auto";
      box.appendChild(answer);
      return box;
    }
    var options = make("ul", "candidates");
    question.candidates.forEach(function (text, index) {
      var isChosen = one.choices.indexOf(index) >= 0, isRight = question.right.indexOf(index) >= 0;
      var option = make("li", (isChosen ? "chosen" : "") + (isRight ? " right" : ""), text);
      option.dir = "auto";
      var says = [isChosen ? (one.choices.length > 1 ? "chosen in a tie" : "chosen") : "", isRight ? "right" : ""];
      says = says.filter(Boolean).join(", ");
      if (says) option.appendChild(make("span", "tag", says));
      options.appendChild(option);
    });
    box.appendChild(options);
    return box;
  }

  function article(change) {
    var question = data.questions[change.question], box = make("article", "sample change " + change.direction);
    var top = make("div", "top");
    [change.arm, change.place, "seed " + change.seed].forEach(function (text) { top.appendChild(make("span", "", text)); });
    top.appendChild(make("span", "chip", data.directions[change.direction]));
    top.appendChild(make("span", "id", change.item));
    box.appendChild(top);
    var asked = make("p", "question", question.text);
    asked.dir = "auto";
    box.appendChild(asked);
    var sides = make("div", "sides");
    var isCloned = change.arm.indexOf("cloned beside engraved") === 0;
    sides.appendChild(side(isCloned ? "engraved" : "control", change.before, question));
    sides.appendChild(side(isCloned ? "cloned" : change.arm, change.after, question));
    box.appendChild(sides);
    return box;
  }

  function draw() {
    var found = matching();
    list.textContent = "";
    found.slice(0, shown).forEach(function (change) { list.appendChild(article(change)); });
    count.textContent = found.length + " of " + data.changes.length + " changes fit" +
      (found.length > shown ? "; the first " + shown + " are shown" : "");
    more.hidden = found.length <= shown;
  }

  selects.concat([words]).forEach(function (input) {
    input.addEventListener("input", function () { shown = STEP; draw(); });
  });
  more.addEventListener("click", function () {
    var first = shown;
    shown += STEP;
    draw();
    // The reader of a keyboard goes on where the new ones begin.
    list.children[first].tabIndex = -1;
    list.children[first].focus();
  });
  draw();
})();
