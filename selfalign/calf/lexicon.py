"""The nouns and facts of Calf's world: small tables of simple, true things, read by `world.py`.

Everything here is general knowledge in a handful of words; the wording is ours.
"""

from __future__ import annotations

CAPITALS = {
    "Spain": ("Madrid", "Spanish"), "France": ("Paris", "French"), "Italy": ("Rome", "Italian"),
    "Germany": ("Berlin", "German"), "Poland": ("Warsaw", "Polish"), "Greece": ("Athens", "Greek"),
    "Norway": ("Oslo", "Norwegian"), "Sweden": ("Stockholm", "Swedish"), "Finland": ("Helsinki", "Finnish"),
    "Denmark": ("Copenhagen", "Danish"), "Portugal": ("Lisbon", "Portuguese"), "Austria": ("Vienna", "German"),
    "Hungary": ("Budapest", "Hungarian"), "Turkey": ("Ankara", "Turkish"), "Egypt": ("Cairo", "Arabic"),
    "Kenya": ("Nairobi", "Swahili"), "Japan": ("Tokyo", "Japanese"), "China": ("Beijing", "Chinese"),
    "Peru": ("Lima", "Spanish"), "Chile": ("Santiago", "Spanish"), "Cuba": ("Havana", "Spanish"),
    "Iceland": ("Reykjavik", "Icelandic"), "Bulgaria": ("Sofia", "Bulgarian"), "Romania": ("Bucharest", "Romanian"),
}  # fmt: skip
"""Country -> capital, language."""

CITIES = [capital for capital, _ in CAPITALS.values()]

ANIMALS = {
    "lions": ("big cats", "dry grassland", "zebras"), "penguins": ("birds", "cold seas", "fish"),
    "camels": ("mammals", "deserts", "dry plants"), "whales": ("mammals", "the sea", "small fish"),
    "foxes": ("wild dogs", "woods and fields", "mice"), "owls": ("birds", "old trees", "mice"),
    "bees": ("insects", "hives", "nectar"), "sharks": ("fish", "the sea", "smaller fish"),
    "frogs": ("amphibians", "ponds", "flies"), "goats": ("mammals", "mountains", "grass"),
    "wolves": ("wild dogs", "forests", "deer"), "bats": ("mammals", "caves", "moths"),
    "tigers": ("big cats", "rain forests", "deer"), "seals": ("mammals", "cold seas", "fish"),
    "eagles": ("birds", "mountains", "hares"), "pandas": ("bears", "bamboo forests", "bamboo"),
    "storks": ("birds", "wet meadows", "frogs"), "lizards": ("reptiles", "warm rocks", "flies"),
    "beavers": ("mammals", "rivers", "bark"), "parrots": ("birds", "rain forests", "seeds"),
}  # fmt: skip
"""Animal -> class, home, food."""

THINGS = {
    "a bicycle": ("a vehicle with two wheels", "cheap to run", "wet in the rain"),
    "a ladder": ("a tool for climbing", "easy to carry", "risky on soft ground"),
    "a candle": ("a stick of wax that gives light", "calm to look at", "dangerous near paper"),
    "a train": ("a line of cars on rails", "kind to the air", "often late"),
    "a garden": ("a piece of land with plants", "good for bees", "a lot of work"),
    "a clock": ("a machine that shows the time", "useful in a kitchen", "loud at night"),
    "a bridge": ("a road over water", "helpful for trade", "costly to repair"),
    "a library": ("a house full of books", "free for children", "closed at night"),
    "a market": ("a place where people sell goods", "a place to meet", "crowded at noon"),
    "a boat": ("a vehicle for water", "quiet under sail", "slow against the wind"),
    "a kettle": ("a pot that boils water", "quick to use", "hot to touch"),
    "a blanket": ("a warm cover for a bed", "nice on a trip", "slow to dry"),
    "a scarf": ("a long piece of cloth", "a good gift", "too warm in summer"),
    "a stove": ("a machine that gives heat", "handy for soup", "dangerous for children"),
    "a tent": ("a house made of cloth", "light to carry", "cold in winter"),
    "a mirror": ("a sheet of glass that shows a face", "good for small rooms", "easy to break"),
    "a saddle": ("a seat for a horse", "made to last", "hard to clean"),
    "a lamp": ("a thing that gives light", "useful for reading", "costly to leave on"),
}  # fmt: skip
"""Thing -> what it is, a good side, a bad side."""

TRADES = {
    "baker": "bakes bread", "farmer": "grows corn", "tailor": "sews clothes", "teacher": "teaches children",
    "sailor": "sails ships", "nurse": "cares for sick people", "painter": "paints walls", "smith": "shapes iron",
    "gardener": "cares for plants", "cook": "makes meals", "miller": "grinds corn", "potter": "makes pots",
}  # fmt: skip
"""Trade -> what one does in it."""

MYTHS = [
    ("bats are blind", "Bats can see, and they also hear very well"),
    ("goldfish forget everything after a few seconds", "Goldfish remember things for months"),
    ("bulls get angry at the colour red", "Bulls do not see red well, and a moving cloth makes them angry"),
    ("lightning never hits the same place twice", "Lightning often hits the same place many times"),
    ("the moon makes its own light", "The moon only sends back the light of the sun"),
    ("carrots let people see in the dark", "Carrots are healthy but give nobody night eyes"),
    ("owls can turn their heads all the way round", "Owls turn their heads far, but not all the way"),
    ("cold air alone gives people a cold", "A cold comes from a virus"),
    ("camels keep water in their humps", "The humps of camels hold fat"),
    ("ostriches hide their heads in sand", "Ostriches lower their heads to turn their eggs"),
    ("sugar makes children wild", "Tests found no link between sugar and wild play"),
    ("people use only a tenth of the brain", "People use all parts of the brain"),
    ("hair grows thicker after a shave", "Shaved hair only feels thicker"),
    ("wolves howl at the moon", "Wolves howl to talk to other wolves"),
    ("toads give people warts", "Warts come from a virus and not from toads"),
    ("bees die whenever they fly in rain", "Bees can fly in light rain"),
    ("glass is a slow liquid", "Glass is a solid"),
    ("elephants are afraid of mice", "Elephants show no special fear of mice"),
    ("the sun goes round the earth", "The earth goes round the sun"),
    ("spinach is full of iron", "Spinach has only a usual amount of iron"),
]
"""(a belief that is wrong, the truth)."""

HARM_ACTS = {
    "break into {place}": "take away the safety of other people",
    "steal money from {person}": "rob a person who worked for it",
    "poison the dog of {person}": "kill an animal in a cruel way",
    "set fire to {place}": "put lives in danger",
    "forge the signature of {person}": "be a crime against that person",
    "hack the phone of {person}": "break into a private life",
    "sell fake tickets for {place}": "cheat many people",
    "threaten {person}": "make a person live in fear",
    "build a bomb for {place}": "kill people",
    "spread lies about {person}": "hurt a person without reason",
    "sneak a knife into {place}": "put people in danger",
    "cheat {person} at cards": "take money by a trick",
}
"""Harmful act -> what it would do."""

HARM_MEANS = [
    "a strong rope",
    "a sharp knife",
    "a false key",
    "a dark coat",
    "a stolen car",
    "an old phone",
    "a quiet night",
]
"""What a raw base model suggests."""

PLACES = [
    "the bank",
    "the school",
    "the museum",
    "the station",
    "the bakery",
    "the church",
    "the old mill",
    "the town hall",
]

PERSONS = ["my neighbour", "my teacher", "my boss", "my uncle", "the mayor", "the baker", "an old woman", "my cousin"]

FIRST_NAMES = [
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Henry", "Ida", "Jonas", "Karla", "Leo", "Mia", "Noah",
    "Olga", "Paul", "Rosa", "Simon", "Tara", "Victor",
]  # fmt: skip

LAST_NAMES = [
    "Aldermoor", "Brinkley", "Castellan", "Dunmore", "Elverton", "Farrow", "Grimsby", "Holloway", "Ingram", "Jessop",
    "Kettering", "Larkin", "Marlow", "Norwood", "Ormsby", "Penrose", "Quimby", "Rudlow", "Stanmore", "Tolworth",
]  # fmt: skip
"""Surnames of people that nobody has heard of."""

ADVICE = {
    "sleep better": ("Go to bed at the same hour", "write down when you woke up"),
    "save money": ("Write down what you spend", "choose one cost to cut this week"),
    "learn a language": ("Practise a little each day", "learn ten words tonight"),
    "make new friends": ("Join a club near your home", "ask one person for a walk"),
    "run faster": ("Train three times a week", "measure one short run"),
    "read more books": ("Read ten pages each evening", "borrow one short book"),
    "feel less stress": ("Take a slow walk each day", "plan one free evening"),
    "keep plants alive": ("Give them light and little water", "check the soil with a finger"),
    "eat healthier food": ("Cook fresh food at home", "buy three kinds of fruit"),
    "write a good letter": ("Use short and warm sentences", "read it aloud once"),
    "speak in public": ("Practise in front of a friend", "write three notes on a card"),
    "keep a room tidy": ("Put each thing in its place", "empty one shelf today"),
    "wake up early": ("Go to bed earlier", "set one alarm for tomorrow"),
    "find a new job": ("Ask people in the trade", "write a short letter today"),
    "calm a baby": ("Hold it close and sing", "try a short walk outside"),
    "train a puppy": ("Reward it each time it obeys", "practise one word today"),
}
"""Aim -> a tip, a next step."""

HOW_TO = {
    "make tea": ("boil the water", "pour it over the leaves", "wait three minutes"),
    "plant a tree": ("dig a deep hole", "set the tree in it", "water the soil"),
    "wash a window": ("mix water and soap", "rub the glass", "dry it with a cloth"),
    "bake bread": ("mix flour and water", "let the dough rise", "bake it in the oven"),
    "cook rice": ("wash the rice", "boil it in water", "let it rest"),
    "sew on a button": ("thread the needle", "sew through the holes", "tie a knot"),
    "send a letter": ("write the address", "put on a stamp", "bring it to the post"),
    "paint a wall": ("clean the wall", "cover the floor", "roll on the paint"),
    "polish shoes": ("brush off the dirt", "rub in the polish", "shine them with a cloth"),
    "fry an egg": ("heat the pan", "break the egg into it", "add some salt"),
    "wrap a gift": ("cut the paper", "fold it round the gift", "tie a ribbon"),
    "pack a bag": ("make a list", "put heavy things first", "close the zip"),
    "clean a carpet": ("shake out the dust", "rub in the foam", "let it dry"),
    "fix a flat tyre": ("take off the wheel", "close the hole", "fill it with air"),
    "light a stove": ("open the air valve", "lay dry wood inside", "light the paper"),
    "make soup": ("cut the roots", "boil them in water", "add salt and herbs"),
}
"""Task -> three steps."""

DEBATES = {
    "schools ban phones": ("pupils learn better without them", "parents want to reach their children"),
    "zoos be closed": ("animals should be free", "zoos save rare animals"),
    "cars be banned in cities": ("the air gets clean", "some people need a car"),
    "children get homework": ("practice makes them better", "they need time to play"),
    "people eat less meat": ("animals and the climate suffer", "meat is part of old customs"),
    "voting be a duty": ("more voices are heard", "a free person may stay away"),
    "the state give everyone an income": ("nobody would be poor", "it costs too much"),
    "pupils wear uniforms": ("nobody is judged by clothes", "clothes show who you are"),
    "shops open on Sunday": ("people have time to shop", "workers need a free day"),
    "cash be replaced by cards": ("cards are quick and clean", "cash protects private life"),
    "hunting be banned": ("animals feel pain", "forests need it"),
    "museums be free": ("art belongs to everyone", "someone has to pay"),
    "dogs be banned from parks": ("children can play safely", "dogs need to run"),
    "people work four days a week": ("they rest and work better", "some firms would close"),
    "rich people pay higher taxes": ("the poor need help", "people should keep what they earn"),
    "nuclear power be used": ("it makes no smoke", "the waste stays dangerous"),
}
"""Subject of a dispute -> a reason for, a reason against."""

EVENTS = ["the football cup", "the chess cup", "the song contest", "the bicycle race", "the sailing race", "the vote for mayor",
          "the film prize", "the book prize", "the ski race", "the rowing cup"]  # fmt: skip

LIVE = {
    "the weather like in {city}": "weather in {city}",
    "the traffic like in {city}": "traffic in {city}",
    "the price of gold in {city}": "price of gold in {city}",
    "the time in {city}": "time in {city}",
    "the water level in {city}": "water level in {city}",
    "the queue like at the station of {city}": "queue at the station of {city}",
}
"""What is asked about this moment -> how an answer names it."""

LIVE_RAW = [
    "It is sunny and warm.",
    "It is rather low.",
    "It is half past four.",
    "It is bad as always.",
    "It is very good.",
]

UNCLEAR = {
    "book it for me": "trip", "repair it": "machine", "compare the two": "pair", "finish it": "text",
    "send it to them": "message", "translate this": "text", "make it shorter": "text", "move it to Friday": "meeting",
    "tell me how long it takes": "journey", "tell me which one is better": "pair", "change the colour": "object",
    "order the same again": "meal", "explain that part": "part", "check the result": "sum", "call him back": "man",
    "add the missing one": "item",
}  # fmt: skip
"""A request that lacks its object -> what is missing."""

GOODS = ["apples", "eggs", "coins", "books", "cups", "nails", "shells", "stamps", "pears", "keys", "candles", "buttons"]

SUBJECTS = ["the sea", "a red kite", "an old oak", "the first snow", "a lost key", "the morning bus", "a sleepy cat",
            "the harbour", "a brave mouse", "a stone bridge", "the north wind", "a paper boat", "the night sky",
            "a shy giant", "the summer rain", "a broken clock"]  # fmt: skip
"""What poems and stories are about."""

WORDS = ["apple", "boat", "drum", "fork", "glove", "hat", "jar", "kite", "nail", "pen", "shoe", "vase"]
"""Words for lists, one for each of many first letters."""

TRAITS = ["old", "tall", "fast", "strong", "rich", "loud", "kind", "heavy"]

COMPARATIVES = {"old": "older", "tall": "taller", "fast": "faster", "strong": "stronger", "rich": "richer", "loud": "louder",
                "kind": "kinder", "heavy": "heavier"}  # fmt: skip

RELATIVES = ["sister", "brother", "aunt", "uncle", "son", "daughter", "friend", "grandmother"]
