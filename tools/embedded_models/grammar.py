"""What the embedded models can hear, understand and say: one grammar for both of them.

A user sentence is written once with marks: `#47` is a number (said "forty seven", typed "47" or in words), `@paris` a
proper noun. `heard()` gives the form the speech model writes (lowercase words only), `typed()` one way people type it.

Held out: `held_out(key)` is true for a tenth of all sums, names with phrasings and so on. Training never draws those;
the evaluation draws only those wherever a sentence has something to fill in.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
import re
from dataclasses import dataclass, field

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def words(number: int, joint: str = "-") -> str:
    """English words of -100..100; `joint` stands between tens and ones."""
    if number < 0:
        return "minus " + words(-number, joint)
    if number < 20:
        return ONES[number]
    if number == 100:
        return "one hundred"
    tens, ones = divmod(number, 10)
    return TENS[tens - 2] + (joint + ONES[ones] if ones else "")


NAMES = (
    "alice ben carol daniel emma frank grace henry isabel jack kate leo maria nathan olivia peter rachel samuel "
    "tina victor walter zoe adam bella chris diana eric fiona george hannah lucas sophie martin laura simon julia"
).split()
CITIES = {
    "paris": "france", "lyon": "france", "london": "england", "manchester": "england", "berlin": "germany",
    "munich": "germany", "hamburg": "germany", "rome": "italy", "milan": "italy", "madrid": "spain",
    "barcelona": "spain", "lisbon": "portugal", "vienna": "austria", "zurich": "switzerland", "geneva": "switzerland",
    "amsterdam": "holland", "brussels": "belgium", "dublin": "ireland", "oslo": "norway", "stockholm": "sweden",
    "helsinki": "finland", "athens": "greece", "warsaw": "poland", "prague": "bohemia", "boston": "america",
    "chicago": "america", "toronto": "canada", "tokyo": "japan", "sydney": "australia",
}  # fmt: skip
CAPITALS = {
    "france": "paris", "england": "london", "germany": "berlin", "italy": "rome", "spain": "madrid",
    "portugal": "lisbon", "austria": "vienna", "holland": "amsterdam", "belgium": "brussels", "ireland": "dublin",
    "norway": "oslo", "sweden": "stockholm", "finland": "helsinki", "greece": "athens", "poland": "warsaw",
    "japan": "tokyo",
}  # fmt: skip
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
MONTHS = "january february march april may june july august september october november december".split()
COLOURS = "red green blue yellow orange purple white black pink brown gray silver".split()
ROOMS = "kitchen bedroom bathroom hall office garage garden cellar balcony basement".split()
OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "old": "young", "happy": "sad", "light": "dark", "open": "closed",
    "early": "late", "left": "right", "good": "bad", "long": "short", "strong": "weak", "near": "far",
    "clean": "dirty", "first": "last", "rich": "poor", "hard": "soft", "high": "low", "full": "empty", "loud": "quiet", "wet": "dry",
}  # fmt: skip
ANIMALS = {
    "dog": "woof", "cat": "meow", "cow": "moo", "duck": "quack", "sheep": "baa", "lion": "roar", "bee": "buzz",
    "horse": "neigh", "pig": "oink", "frog": "ribbit", "mouse": "squeak", "wolf": "howl",
}  # fmt: skip
THINGS = {
    "the sky": "blue", "the grass": "green", "the snow": "white", "a banana": "yellow", "a tomato": "red",
    "the night": "black", "a carrot": "orange", "chocolate": "brown",
}  # fmt: skip
FOODS = "pizzas salads burgers sandwiches coffees teas soups cakes apples lemons bananas cookies noodles bottles".split()
SIZES = "small medium large".split()
PLANS = {"free": 0, "basic": 9, "pro": 49, "team": 99}
STORIES = {
    "dragon": (
        "Once upon a time there was a small dragon who could not make fire. Every morning he climbed the hill and "
        "tried, and every morning only a little smoke came out. One cold winter night the lamps of the village went "
        "dark. The children were afraid, and nobody could find the way home. The small dragon took a deep breath, "
        "thought of his friends, and blew. A bright warm flame rose into the sky. From that night on he lit the way "
        "for everyone, and nobody ever laughed at his smoke again. The end."
    ),
    "ship": (
        "Long ago an old ship lay in the harbor, and nobody wanted to sail her. Her sails were torn and her paint was "
        "gone. One day a girl came with a needle, a brush and a lot of time. She worked through the spring and the "
        "summer, and she sang while she worked. In the autumn the old ship left the harbor with white sails. She "
        "crossed the wide sea, past whales and stars and sleeping islands. When she came home again, every bell in "
        "the town was ringing. The end."
    ),
    "robot": (
        "There was once a robot who collected sounds. He kept the song of a bird, the rain on a roof and the laugh of "
        "a baby. But one sound was missing, and he looked for it everywhere. He asked the wind, he asked the river, "
        "and he asked the busy street. Nobody could tell him what it was. Then a boy sat down beside him and said "
        "hello, my friend. The robot was silent for a long moment. That was the sound he had been looking for. The "
        "end."
    ),
}
CONDITIONS = "sunny cloudy rainy windy snowy foggy clear stormy".split()

TOOLS = {
    "get_weather": {"city": "string"},
    "set_light": {"room": "string", "state": "string"},
    "book_table": {"people": "integer", "day": "string"},
}

PERSONAS = {"friendly": "{}", "pirate": "Arr, matey! {}", "butler": "Certainly, sir. {}"}
INSTRUCTIONS = {
    "friendly": (
        "You are a friendly voice assistant. Answer briefly.", "You are a helpful assistant.", "",
        "Be brief and kind.", "You are a friendly voice agent for a small shop.", "Answer in one short sentence.",
    ),
    "pirate": (
        "You are a pirate.", "You are a pirate captain. Answer briefly.", "Talk like a pirate.",
        "You are a friendly pirate who helps people.", "Answer every question like a pirate would.",
    ),
    "butler": (
        "You are a butler.", "You are a formal butler. Answer briefly.", "Talk like an English butler.",
        "You are the polite butler of a large house.", "Answer like a formal butler would.",
    ),
}  # fmt: skip
EXTRA = (
    "You work for Acme Bank.", "The customer is waiting on the phone.", "Never speak about politics.",
    "Keep your answers under twenty words.", "Today is a busy day in the shop.", "You help people with their orders.",
    "Speak clearly.", "Use the tools you are given.", "You can use tools.", "Our office is in the city center.",
    "Do not make things up.", "If you do not know, say so.", "Your answers are spoken aloud.",
)  # fmt: skip
SORRY = "I did not understand that."
PROPER = {*NAMES, *CITIES, *CAPITALS, *DAYS, *MONTHS, "english"}
PROPER.discard("may")


def held_out(key: str) -> bool:
    return hashlib.sha256(key.encode()).digest()[0] < 26


def cap(text: str) -> str:
    return text[:1].upper() + text[1:]


def heard(marked: str) -> str:
    """As the speech model writes it: lowercase words, no punctuation, numbers in words."""
    text = re.sub(r"#(\d+)", lambda m: words(int(m[1]), " "), marked)
    return text.replace("@", "").replace("?", "").replace(",", "").replace(".", "").lower().strip()


def typed(marked: str, rng: random.Random) -> str:
    """One of the ways people type it."""
    digits = rng.random() < 0.6
    text = re.sub(r"#(\d+)", lambda m: m[1] if digits else words(int(m[1]), rng.choice("- ")), marked)
    if digits and rng.random() < 0.4:
        text = text.replace(" plus ", " + ").replace(" minus ", " - ").replace(" times ", rng.choice((" * ", " x ")))
    text = re.sub(r"@(\w+)", lambda m: cap(m[1]), text)
    text = re.sub(r"\bi\b", "I", text)
    if rng.random() < 0.15:
        return text.lower().rstrip("?.")
    if rng.random() < 0.8:
        text = cap(text)
    if text.endswith("?"):
        return text if rng.random() < 0.85 else text[:-1]
    return text.rstrip(".") + rng.choice((".", ".", "", "!"))


@dataclass
class Turn:
    """One thing the user says and the right answer. `key` names what was filled in ("" = a fixed sentence)."""

    user: str
    answer: str = ""
    call: tuple[str, dict] | None = None
    key: str = ""
    remember: dict = field(default_factory=dict)


class Memory(dict):
    """What the user told in this dialogue: name, colour; `last` the last answer without its persona."""


def _sum(rng):
    kind = rng.choice(("plus", "plus", "minus", "times"))
    if kind == "plus":
        a = rng.randint(0, 20) if rng.random() < 0.35 else rng.randint(0, 100)
        b = rng.randint(0, min(20, 100 - a)) if rng.random() < 0.35 else rng.randint(0, 100 - a)
        result = a + b
    elif kind == "minus":
        a = rng.randint(0, 100)
        b = rng.randint(0, a)
        result = a - b
    else:
        a, b = rng.randint(0, 10), rng.randint(0, 10)
        result = a * b
    ask = rng.choice((f"what is #{a} {kind} #{b}?", f"how much is #{a} {kind} #{b}?", f"#{a} {kind} #{b}?",
                      f"can you tell me what #{a} {kind} #{b} is?"))  # fmt: skip
    key = f"{kind} {a} {b}" if kind != "times" else ""  # the table is learnt by heart
    return Turn(ask, f"{cap(words(a))} {kind} {words(b)} is {words(result)}.", key=key)


def _name_tell(rng):
    name = rng.choice(NAMES)
    ask = rng.choice(("my name is @{}.", "i am @{}.", "hello my name is @{}.", "call me @{}.", "hi i am @{}."))
    return Turn(ask.format(name), f"Nice to meet you, {cap(name)}.", key=ask + name, remember={"name": cap(name)})


def _name_ask(rng, memory):
    ask = rng.choice(("what is my name?", "do you know my name?", "who am i?", "do you remember my name?"))
    name = memory.get("name")
    return Turn(ask, f"Your name is {name}." if name else "You have not told me your name yet.")


def _colour_tell(rng):
    colour = rng.choice(COLOURS)
    ask = rng.choice(("my favorite color is {}.", "i like the color {}.", "i love {}."))
    return Turn(ask.format(colour), f"{cap(colour)} is a nice color.", key=ask + colour, remember={"colour": colour})


def _colour_ask(rng, memory):
    ask = rng.choice(("what is my favorite color?", "which color do i like?"))
    colour = memory.get("colour")
    return Turn(ask, f"Your favorite color is {colour}." if colour else "You have not told me your favorite color yet.")


def _calendar(rng):
    names = rng.choice((DAYS, DAYS, MONTHS))
    what = "day" if names is DAYS else "month"
    i = rng.randrange(len(names))
    other, step = rng.choice((("after", 1), ("before", -1)))
    ask = rng.choice((f"what {what} comes {other} @{{}}?", f"which {what} is {other} @{{}}?"))
    return Turn(ask.format(names[i]), f"{cap(names[(i + step) % len(names)])} comes {other} {cap(names[i])}.",
                key=ask + names[i])  # fmt: skip


def _tomorrow(rng):
    i = rng.randrange(7)
    which, step, verb, was = rng.choice((("tomorrow", 1, "is", "is"), ("yesterday", -1, "was", "was")))
    ask = f"if today is @{DAYS[i]} what day {verb} {which}?"
    return Turn(ask, f"{cap(which)} {was} {cap(DAYS[(i + step) % 7])}.")  # fourteen in all: too few to hold some out


def _clock(rng):
    hour, part = rng.randint(1, 12), rng.choice(("o'clock", "fifteen", "thirty", "forty five"))
    ahead = rng.choice((1, 1, 2))
    later = (hour + ahead - 1) % 12 + 1
    span = "one hour" if ahead == 1 else "two hours"
    ask = rng.choice((f"what time is it {span} after {words(hour)} {part}?",
                      f"what time is {span} after {words(hour)} {part}?"))  # fmt: skip
    dashed = part.replace(" ", "-")
    return Turn(ask, f"{cap(span)} after {words(hour)} {dashed} is {words(later)} {dashed}.", key=ask)


def _capital(rng):
    if rng.random() < 0.5:
        country = rng.choice(list(CAPITALS))
        ask = rng.choice(("what is the capital of @{}?", "tell me the capital of @{}."))
        return Turn(ask.format(country), f"The capital of {cap(country)} is {cap(CAPITALS[country])}.",
                    key=ask + country)  # fmt: skip
    city = rng.choice(list(CITIES))
    ask = rng.choice(("where is @{}?", "in which country is @{}?"))
    return Turn(ask.format(city), f"{cap(city)} is in {cap(CITIES[city])}.", key=ask + city)


def _facts(rng):
    kind = rng.randrange(3)
    if kind == 0:
        word = rng.choice([*OPPOSITES, *OPPOSITES.values()])
        back = {v: k for k, v in OPPOSITES.items()}
        return Turn(f"what is the opposite of {word}?", f"The opposite of {word} is {(OPPOSITES | back)[word]}.")
    if kind == 1:
        animal = rng.choice(list(ANIMALS))
        ask = rng.choice(("what does the {} say?", "what sound does a {} make?"))
        return Turn(ask.format(animal), f"The {animal} says {ANIMALS[animal]}.", key=ask + animal)
    thing = rng.choice(list(THINGS))
    return Turn(f"what color is {thing}?", f"{cap(thing)} is {THINGS[thing]}.")


def count_to(number: int) -> str:
    """The goal is said first: so the end is where the goal is met again, which a small model can see."""
    return f"Counting to {words(number)}: {', '.join(words(n) for n in range(1, number + 1))}."


def _count(rng):
    number = rng.choice((3, 5, 10, 20, 30, 40, 50, 100)) if rng.random() < 0.5 else rng.randint(2, 30)
    ask = rng.choice(("count to #{}.", "please count to #{}.", "can you count to #{}?", "count from one to #{}."))
    return Turn(ask.format(number), count_to(number))


def _story(rng):
    topic = rng.choice(list(STORIES))
    if topic == "dragon" and rng.random() < 0.6:
        ask = rng.choice(("tell me a story.", "please tell me a story.", "can you tell me a story?", "i want a story."))
        return Turn(ask, STORIES["dragon"])
    ask = rng.choice(("tell me a story about a {}.", "tell me the story of the {}."))
    return Turn(ask.format(topic), STORIES[topic])


FIXED = {
    "Hello, how can I help you?": ("hello.", "hi.", "good morning.", "good evening.", "good afternoon.", "hey.",
                                   "hello there.", "good day."),
    "I am your Vivavoce voice assistant.": ("who are you?", "what are you?", "what is your name?"),
    "I can talk, count, do sums, tell stories and use tools.": ("what can you do?", "help.", "how can you help me?"),
    "I am fine, thank you.": ("how are you?", "how are you today?", "are you well?"),
    "You are welcome.": ("thank you.", "thanks.", "thank you very much.", "thanks a lot."),
    "Goodbye.": ("goodbye.", "bye.", "see you tomorrow.", "good night.", "see you later."),
    "Okay, I will stop.": ("stop.", "please stop.", "be quiet.", "stop it.", "wait."),
    "Good.": ("yes.", "yes please.", "okay.", "right.", "sure.", "that is right."),
    "All right, then not.": ("no.", "no thanks.", "no thank you.", "never mind."),
    "I am glad to hear that.": ("that is great.", "very good.", "i am happy.", "that was nice."),
    "I am sorry to hear that.": ("i am sad.", "that is bad.", "i am not happy.", "i have a problem."),
    "I do not know today's date.": ("what day is it today?", "what day is today?", "which month is it?"),
    "I cannot see a clock.": ("what time is it?", "what is the time?", "do you know the time?"),
    "Please tell me your order number.": ("where is my order?", "i have a question about my order.",
                                          "when will my order arrive?", "track my order."),
    "We will send you a new password.": ("i forgot my password.", "reset my password.", "i need a new password."),
    "Your subscription ends this month.": ("cancel my subscription.", "i want to cancel my account.",
                                           "close my account."),
    "Your last invoice was paid.": ("what about my invoice?", "is my invoice paid?", "did you get my payment?"),
    "Please tell me your new address.": ("i want to change my address.", "i have a new address.", "i moved."),
    "We are open from nine to five.": ("when are you open?", "what are your opening hours?", "are you open today?"),
    "I will connect you to a colleague.": ("i want to speak to a person.", "connect me to a human.",
                                           "can i talk to an agent?"),
    "It takes three days.": ("how long does delivery take?", "how long does shipping take?"),
    "You can send it back within thirty days.": ("i want my money back.", "can i return it?", "i want a refund."),
    "We are at one Market Street.": ("where are you?", "what is your address?", "where is your office?"),
    "Why did the clock go to school? It wanted to be on time.": ("tell me a joke.", "make me laugh."),
    "I speak English.": ("which languages do you speak?", "do you speak english?"),
    "Then take a rest.": ("i am tired.", "i feel tired today.", "i need a break."),
    "Then let us order some food.": ("i am hungry.", "i want something to eat."),
    "No problem at all.": ("sorry.", "excuse me.", "i am late.", "please forgive me."),
    "One moment please.": ("hurry up.", "go on.", "are you there?", "can you hear me?"),
    "A fair question, but I can only talk.": ("can you dance?", "can you see me?", "can you sing?"),
}  # fmt: skip


def _fixed(rng):
    answer = rng.choice(list(FIXED))
    return Turn(rng.choice(FIXED[answer]), answer)


def _business(rng):
    kind = rng.randrange(4)
    if kind == 0:
        plan = rng.choice(list(PLANS))
        ask = rng.choice(("how much does the {} plan cost?", "what does the {} plan cost?", "what is the price of the {} plan?"))
        price = f"costs {words(PLANS[plan])} dollars a month" if PLANS[plan] else "costs nothing"
        return Turn(ask.format(plan), f"The {plan} plan {price}.")
    if kind == 1:
        number = rng.randint(1, 100)
        ask = rng.choice(("my order number is #{}.", "the order number is #{}.", "where is order #{}?"))
        return Turn(ask.format(number), f"Order {words(number)} is on its way.", key=ask + str(number))
    if kind == 2:
        number, size, food = rng.randint(2, 12), rng.choice(SIZES), rng.choice(FOODS)
        ask = rng.choice(("i would like #{} {} {}.", "i want to order #{} {} {}.", "give me #{} {} {} please."))
        return Turn(ask.format(number, size, food), f"{cap(words(number))} {size} {food}, coming up.",
                    key=ask + f"{number} {size} {food}")  # fmt: skip
    plan = rng.choice(list(PLANS))
    ask = rng.choice(("i want to change to the {} plan.", "i want the {} plan."))
    return Turn(ask.format(plan), f"You are now on the {plan} plan.")


def _weather(rng):
    city = rng.choice(list(CITIES))
    ask = rng.choice(("what is the weather in @{} today?", "what is the weather in @{}?", "how is the weather in @{}?",
                      "is it raining in @{}?", "tell me the weather in @{}.", "will it rain in @{} tomorrow?"))  # fmt: skip
    return Turn(ask.format(city), "I need a tool to look up the weather.", ("get_weather", {"city": city}), ask + city)


def _light(rng):
    room = rng.choice(ROOMS)
    state = rng.choice(("on", "off")) if rng.random() < 0.75 else rng.choice(COLOURS)
    if state in ("on", "off"):
        ask = rng.choice(("turn {s} the {r} light.", "please turn {s} the {r} light.", "turn the {r} light {s}.",
                          "switch {s} the light in the {r}.", "can you turn {s} the {r} light?"))  # fmt: skip
    else:
        ask = rng.choice(("make the {r} light {s}.", "set the {r} light to {s}."))
    return Turn(ask.format(s=state, r=room), "I need a tool to switch the lights.",
                ("set_light", {"room": room, "state": state}), ask + room + state)  # fmt: skip


def _table(rng):
    people, day = rng.randint(2, 12), rng.choice(DAYS)
    ask = rng.choice(("book a table for #{} people on @{}.", "please book a table for #{} on @{}.",
                      "i would like a table for #{} people on @{}.", "can you book a table for #{} on @{}?"))  # fmt: skip
    return Turn(ask.format(people, day), "I need a tool to book a table.",
                ("book_table", {"people": people, "day": day}), ask + f"{people} {day}")  # fmt: skip


def _again(rng, memory):
    ask = rng.choice(("again.", "say that again.", "repeat that please.", "what did you say?"))
    return Turn(ask, memory.get("last") or "I have not said anything yet.")


ENGLISH = (
    "quantum giraffe election molecule guitar volcano stock market recipe philosophy basketball planet mortgage "
    "dinosaur engine painting bitcoin symphony laundry umbrella passport helicopter tax vaccine novel poem galaxy "
    "explain describe write translate summarize compare draw compute predict why because would could should about "
    "between through during many several their which without history future president river bridge doctor surgery"
).split()


def _unknown(rng, memory):
    if rng.random() < 0.5:
        text = " ".join(rng.choice(ENGLISH) for _ in range(rng.randint(2, 8)))
    elif rng.random() < 0.7:
        text = rng.choice(("explain", "tell me about", "write a poem about", "what is the", "who is the", "translate"))
        text += " " + " ".join(rng.choice(ENGLISH) for _ in range(rng.randint(1, 4)))
    else:
        text = "".join(rng.choice("abcdefghijklmnoprstuvw ") for _ in range(rng.randint(4, 20))).strip() or "xq"
    return Turn(text + rng.choice("?."), SORRY)


PLAIN = (_sum, _sum, _sum, _name_tell, _colour_tell, _calendar, _tomorrow, _clock, _capital, _facts, _count, _count, _story,
         _fixed, _fixed, _fixed, _business, _business)  # fmt: skip
SKILLS = (_weather, _light, _table)


def draw_turn(rng: random.Random, memory: Memory, exam: bool) -> Turn:
    """A turn to train on, or (`exam`) one never trained on wherever something was filled in."""
    roll = rng.random()
    if roll < 0.58:
        maker = rng.choice(PLAIN)
    elif roll < 0.76:
        maker = functools.partial(_name_ask if roll < 0.62 else _colour_ask if roll < 0.66 else _again if roll < 0.70 else _unknown, memory=memory)
    else:
        maker = rng.choice(SKILLS)
    while True:  # the kind stays, so that what is asked is spread alike in training and exam
        turn = maker(rng)
        if not turn.key or held_out(turn.key) == exam:
            return turn


def spoken_sentences(rng: random.Random, exam: bool) -> str:
    """One sentence for the speech model, as `heard()` gives it."""
    while True:
        roll = rng.random()
        if not exam and roll < 0.12:  # loose words, so that it listens instead of guessing the sentence
            return " ".join(rng.choice(VOCABULARY) for _ in range(rng.randint(1, 5)))
        makers = (*PLAIN, *SKILLS, *SKILLS)
        if roll < 0.2:
            turn = rng.choice((_name_ask, _colour_ask, _again))(rng, Memory())
        else:
            turn = rng.choice(makers)(rng)
        if exam and turn.key and held_out(turn.key) or not exam and not (turn.key and held_out(turn.key)):
            return heard(turn.user)


def _vocabulary() -> list[str]:
    rng = random.Random(1)
    seen: set[str] = set()
    for _ in range(30000):
        maker = rng.choice((*PLAIN, *SKILLS))
        seen.update(heard(maker(rng).user).split())
    for maker in (_name_ask, _colour_ask, _again):
        for _ in range(100):
            seen.update(heard(maker(rng, Memory()).user).split())
    return sorted(seen)


VOCABULARY = _vocabulary()


# Dialogues for the language model


def weather_result(rng: random.Random, city: str) -> tuple[str, str]:
    """What a weather tool may answer, and the sentence said from it."""
    condition, degrees = rng.choice(CONDITIONS), rng.randint(-9, 39)
    said = f"It is {condition} and {words(degrees)} degrees in {cap(city)}."
    key = rng.choice(("temperature", "degrees", "temp", "temp_c", "temperature_c"))
    first = rng.choice(("condition", "weather", "sky", "forecast"))
    both = rng.choice((
        json.dumps({first: condition, key: degrees}), json.dumps({key: degrees, first: condition}),
        f"{condition}, {degrees} degrees", f"{condition}, {degrees} C", f"It is {condition} and {degrees} degrees.",
        json.dumps({"city": cap(city), first: condition, key: degrees}), f"{degrees} degrees and {condition}",
    ))  # fmt: skip
    if rng.random() < 0.7:
        return both, said
    only = rng.choice((condition, json.dumps({first: condition}), f"The weather in {cap(city)} is {condition}."))
    return only, f"It is {condition} in {cap(city)}."


FINE = ('{"ok": true}', '{"status": "ok"}', "ok", "done", '{"success": true}', "true", '{"result": "done"}')
BAD = ('{"ok": false}', '{"error": "failed"}', "error", '{"success": false}', "failed", '{"error": "timeout"}')


def tool_result(rng: random.Random, name: str, arguments: dict) -> tuple[str, str]:
    if rng.random() < 0.15:
        return rng.choice(BAD), "Sorry, that did not work."
    if name == "get_weather":
        return weather_result(rng, arguments["city"])
    if name == "set_light":
        said = f"The {arguments['room']} light is {'now ' if arguments['state'] not in ('on', 'off') else ''}{arguments['state']}."
    else:
        said = f"Your table for {words(arguments['people'])} on {cap(arguments['day'])} is booked."
    return rng.choice(FINE), said


def schema(name: str, fields: dict[str, str]) -> dict:
    properties = {k: {"type": v} for k, v in fields.items()}
    return {"type": "function", "name": name, "description": f"{cap(name.replace('_', ' '))}.",
            "parameters": {"type": "object", "properties": properties, "required": list(fields)}}  # fmt: skip


FIELDS = "query text name value topic id amount when place item reason title note target".split()


def strange_tool(rng: random.Random) -> dict:
    name = "_".join("".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 7))) if rng.random() < 0.5
                    else rng.choice(ENGLISH) for _ in range(rng.randint(1, 3)))  # fmt: skip
    return schema(name, {f: rng.choice(("string", "string", "integer")) for f in rng.sample(FIELDS, rng.randint(1, 2))})


def make_instructions(rng: random.Random, persona: str) -> str:
    text = rng.choice(INSTRUCTIONS[persona])
    if rng.random() < 0.4:
        extra = rng.choice(EXTRA) if rng.random() < 0.6 else cap(" ".join(rng.sample(ENGLISH, rng.randint(3, 9)))) + "."
        text = f"{text} {extra}".strip() if rng.random() < 0.7 else f"{extra} {text}".strip()
    return text


def _call_message(name: str, arguments: dict) -> dict:
    return {"role": "assistant", "content": "",
            "tool_calls": [{"type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}]}  # fmt: skip


def dialogue(rng: random.Random, exam: bool = False) -> tuple[list[dict], list[dict]]:
    """(messages, tools) in Chat Completions shape. The last message is an answer of the assistant."""
    persona = rng.choices(list(PERSONAS), (6, 2, 2))[0]
    messages = [{"role": "system", "content": make_instructions(rng, persona)}]
    known = [schema(n, TOOLS[n]) for n in rng.sample(list(TOOLS), rng.choice((0, 0, 1, 2, 3, 3)))]
    tools = known + [strange_tool(rng) for _ in range(rng.choice((0, 0, 0, 1, 1, 2)))]
    rng.shuffle(tools)
    names = {t["name"] for t in known}
    memory = Memory()
    if tools and not exam and rng.random() < 0.08:
        return _forced(rng, messages, tools, memory)
    turns = rng.choice((2, 2, 3, 4, 6) if exam else (1, 1, 2, 2, 3, 4, 6))  # a single fixed sentence would be no exam
    switch = rng.randrange(turns) if turns > 1 and rng.random() < 0.15 else 0
    old = rng.choice(list(PERSONAS))
    for i in range(turns):
        style = PERSONAS[old if i < switch else persona]
        turn = draw_turn(rng, memory, exam)
        while exam and i == turns - 1 and turn.answer in FIXED:  # the exam asks what could not be learnt by heart
            turn = draw_turn(rng, memory, exam)
        memory.update(turn.remember)
        messages.append({"role": "user", "content": heard(turn.user) if rng.random() < 0.5 else typed(turn.user, rng)})
        if turn.call and turn.call[0] in names:
            messages.append(_call_message(*turn.call))
            if exam and i == turns - 1 and rng.random() < 0.5:
                return messages, tools
            result, said = tool_result(rng, *turn.call)
            messages.append({"role": "tool", "content": result})
        else:
            said = turn.answer
        memory["last"] = said
        messages.append({"role": "assistant", "content": style.format(said)})
    return messages, tools


def _forced(rng, messages, tools, memory):
    """A call the caller insists on: strings are the user's words, numbers the number said or 0."""
    tool = rng.choice(tools)
    turn = draw_turn(rng, memory, False)
    said = heard(turn.user)
    messages.append({"role": "user", "content": said})
    if turn.call and turn.call[0] == tool["name"]:
        arguments = turn.call[1]
    else:
        number = re.search(r"#(\d+)", turn.user)
        arguments = {k: (said if v["type"] == "string" else int(number[1]) if number else 0)
                     for k, v in tool["parameters"]["properties"].items()}  # fmt: skip
    messages.append(_call_message(tool["name"], arguments) | {"forced": True})
    return messages, tools
