"use strict";
// Tables sort by a click on a heading; numbers by their full value (data-v), missing values always last.
document.querySelectorAll("table.sortable").forEach(function (table) {
  table.querySelectorAll("thead th").forEach(function (head, column) {
    var button = document.createElement("button");
    button.type = "button";
    while (head.firstChild) button.appendChild(head.firstChild);
    head.appendChild(button);
    button.addEventListener("click", function () {
      var down = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("thead th").forEach(function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      var body = table.tBodies[0];
      function key(row) {
        var cell = row.cells[column];
        var value = cell.hasAttribute("data-v") ? cell.getAttribute("data-v") : cell.textContent.trim();
        if (value === "" || value === "–") return null;
        return cell.hasAttribute("data-v") ? Number(value) : value;
      }
      Array.from(body.rows).sort(function (left, right) {
        var a = key(left), b = key(right);
        if (a === null || b === null) return (a === null) - (b === null);
        var order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en");
        return down ? -order : order;
      }).forEach(function (row) { body.appendChild(row); });
    });
  });
});
// What scrolls sideways can be reached with the keyboard.
document.querySelectorAll(".wide").forEach(function (box) { if (box.scrollWidth > box.clientWidth) box.tabIndex = 0; });
// What is folded on the screen is printed.
window.addEventListener("beforeprint", function () {
  document.querySelectorAll("details").forEach(function (fold) {
    if (!fold.open) { fold.open = true; fold.dataset.folded = "yes"; }
  });
});
window.addEventListener("afterprint", function () {
  document.querySelectorAll("details[data-folded]").forEach(function (fold) {
    fold.open = false;
    delete fold.dataset.folded;
  });
});
