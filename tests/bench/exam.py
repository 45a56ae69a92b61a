"""A benchmark to plant: 200 problems of the project's own, 60 frames by hand with three or four fillings, and each said in other words.

The second text of a frame is a paraphrase: the same problem, numbers and all, in another order and other words, written by hand.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

ITEMS = 200
NAMES = ("Adela", "Bruno", "Chiara", "Dmitri", "Esra", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Katya", "Luis", "Mina", "Nils")  # fmt: skip

FRAMES: tuple[tuple[str, str], ...] = (
    ("{n} folds {a} paper cranes every evening and gives {b} of them to a neighbour each Sunday. Starting with none on a Monday, how many cranes are on the shelf after {c} full weeks?",
     "Each week {b} cranes leave the collection of {n}, who makes {a} new ones a day. If it was empty at first, what does it hold once {c} weeks have gone by?"),
    ("A cinema has {a} rows of {b} seats. For the late show {c} seats stay empty because of a leaking roof, and every other seat is sold at 7 coins. What are the takings?",
     "All but {c} places in a film theatre are filled at a price of 7 coins; there are {b} places in each of its {a} rows. How much money comes in?"),
    ("{n} rides a bicycle at {a} km/h for {b} hours, rests, and then walks {c} km home. What distance was covered in total?",
     "After cycling {b} hours with a speed of {a} kilometres per hour, {n} goes the last {c} kilometres on foot. How long is the whole way?"),
    ("The sum of three consecutive odd numbers is {a} more than twice the smallest of them. Which number is the smallest?",
     "Take an odd number and the next two odd ones. Added up they exceed the double of the first by {a}. Find the first."),
    ("A rectangular garden is {a} m longer than it is wide and has a fence of {b} m around it. Find its area.",
     "What surface does a plot of four right angles have if its boundary measures {b} metres and one side exceeds the other by {a} metres?"),
    ("In a drawer lie {a} red, {b} green and {c} blue socks. How many must be pulled out in the dark to be sure of a pair of one colour?",
     "Without looking, somebody takes socks out of a chest that holds {b} green ones, {c} blue ones and {a} red ones. At how many is a matching pair certain?"),
    ("A tank is filled by one pipe in {a} hours and by another in {b} hours. Both are opened together. After what time is it full?",
     "Two taps run into the same basin; alone the slower would need {b} hours and the faster {a}. How long do they take side by side?"),
    ("{n} buys {a} notebooks at {b} coins each and pays with a note of 500 coins. The shop has a discount of {c} coins on the whole purchase. How much change is returned?",
     "From 500 coins {n} pays for {a} copybooks, {b} coins apiece, of which {c} coins in all are taken off. What is left of the money?"),
    ("How many positive integers below {a}00 are divisible by {b} but not by {c}?",
     "Count the multiples of {b} that are smaller than {a}00, leaving out those that {c} divides."),
    ("A snail climbs {a} cm up a wall during the day and slips back {b} cm at night. The wall is {c}00 cm high. On which day does it reach the top?",
     "By night a small animal loses {b} centimetres of the {a} that it gained in daylight. When will it first stand on top of {c}00 centimetres of brickwork?"),
    ("{n} is {a} years old and has a brother who is {b} years younger. In how many years will their ages add up to 1{c}0?",
     "The brother of {n} was born {b} years later. With {n} now at {a}, how long until both together count 1{c}0 years?"),
    ("A printer produces {a} pages a minute for the first {b} minutes, then slows to half that speed because it is hot. How many pages come out in the first hour?",
     "Overheating halves the output of a printing machine after {b} minutes; before that it was {a} sheets in each of them. What is the result of 60 minutes?"),
    ("Find the remainder when {a} raised to the power {b} is divided by {c}.",
     "If one multiplies {b} copies of {a} and splits the product into groups of {c}, how many are left over?"),
    ("A farmer has hens and goats, {a} heads and 2{b}0 legs among them. How many goats are there?",
     "Counting feet on a farm gives 2{b}0, counting beaks and muzzles gives {a}. The birds have two feet, the other animals four. What is the number of the latter?"),
    ("The base of a triangle is {a} cm and its height is {b} cm. A square has the same area plus {c} square centimetres. What is the side of the square?",
     "Enlarge the area of a triangle with altitude {b} cm on a side of {a} cm by {c} cm2, and draw a square of that size. How long are its edges?"),
    ("{n} reads {a} pages on the first day of a holiday and {b} pages more on each day than on the day before. After {c} days, how many pages were read altogether?",
     "A book is read in growing portions: {a} pages to begin with, and always {b} above the previous day's. What has {n} got through by the end of day {c}?"),
    ("A bag holds {a} white and {b} black marbles. Two are drawn one after the other without being put back. What is the probability that both are black?",
     "Somebody picks two balls out of {a} light and {b} dark ones at the same time. How likely is it that no light one is among them?"),
    ("A ferry carries {a} cars on each crossing, and a crossing with loading takes {b} minutes either way. How long does it take to bring {c}0 waiting cars over, if the ferry starts on their side?",
     "{c}0 vehicles queue at a pier. {a} of them fit on the boat, whose single trip lasts {b} minutes, mooring included. When has the last one landed?"),
    ("The price of a coat was raised by {a} percent and later lowered by {b} percent. It now costs {c}00 coins. What did it cost at the beginning?",
     "{c}00 coins is what a coat is sold for after a rise of {a} percent followed by a cut of {b} percent. Find its first price."),
    ("How many diagonals does a convex polygon with {a} sides have, and by how much would that number grow with {b} more sides?",
     "Join the corners of an {a}-gon that are not next to each other. How many such lines are there, and how many additional ones once the figure gets {b} further corners?"),
    ("{n} mixes {a} litres of juice that is {b} percent fruit with {c} litres of pure water. What percentage of fruit does the drink have?",
     "Water, {c} litres of it, is poured to {a} litres of a drink with a fruit content of {b} percent. How strong is what {n} gets?"),
    ("A train of {a}0 m passes a signal in {b} seconds. How long will it take to cross a bridge of {c}00 m at the same speed?",
     "Within {b} seconds the whole length of a train, {a}0 metres, rolls by a post. What time does it need from its front entering a bridge {c}00 metres long to its end leaving it?"),
    ("In a class of {a} pupils {b} play chess and {c} sing in the choir, while 3 do neither. How many do both?",
     "Of {a} children all but 3 have a hobby. The singers number {c}, the chess players {b}. On how many lists does one and the same child stand twice?"),
    ("A clock loses {a} minutes every {b} hours. It was set right at noon on Monday. What does it show when it is noon on the Saturday that follows?",
     "For each {b} hours that pass, a watch falls {a} minutes behind. Five days after it was correct at midday, which time can be read off it?"),
    ("{n} saves {a} coins in the first month and doubles the amount each month. In which month do the savings pass {b}000 coins?",
     "Starting with {a} coins, every month sees twice the deposit of the one before. When does {n} own more than {b}000?"),
    ("The product of two whole numbers is {a}0 and their difference is {b}. What is the larger of the two?",
     "Two integers lie {b} apart, and multiplied they make {a}0. Name the greater."),
    ("A baker uses {a} g of flour for a small loaf and {b} g for a large one. With {c} kg of flour she wants as many small loaves as large ones. How many of each can she bake?",
     "Equal numbers of big and little loaves are to be made out of {c} kilograms of flour, {b} grams going into the former and {a} into the latter. What is the most she can get of either?"),
    ("A circle is inscribed in a square whose diagonal measures {a} cm. What part of the square, rounded to {b} decimals, does the circle cover?",
     "Give to {b} places the share of a square, {a} cm from corner to opposite corner, that is inside the largest disc fitting in it."),
    ("{n} scored {a}, {b} and {c} points in three rounds. What is needed in the fourth round to reach an average of 60?",
     "Over four games {n} wants 60 points a game. So far there were {c}, {a} and {b}. How good must the last one be?"),
    ("A password has {a} letters followed by {b} digits, and no character may be used twice. How many passwords exist if the alphabet has 26 letters?",
     "Codes are built of {b} different figures behind {a} different letters out of 26. How many can be made?"),
    ("A candle {a} cm long burns down {b} mm an hour, a thicker one {c} cm long only 2 mm an hour. After how many hours are they equally long?",
     "One of two candles shrinks by 2 millimetres per hour from {c} centimetres, its neighbour by {b} millimetres from {a} centimetres. When do their tips stand level?"),
    ("{n} pays {a} coins a month for a phone plus {b} coins for each minute above the free hundred. The bill says {c}0 coins. How many minutes were used?",
     "A contract costs {a} coins with 100 minutes included; further ones are {b} coins each. How long did {n} talk for a charge of {c}0 coins?"),
    ("How many terms of the sequence {a}, {b}, ... in which the difference stays the same have to be added before the sum is above {c}00?",
     "An arithmetic progression opens with {a} and {b}. What is the least count of members whose total exceeds {c}00?"),
    ("A lift can carry {a} kg. {b} people of 70 kg are in it. How many boxes of {c} kg can still be loaded?",
     "With {b} passengers, each weighing 70 kilograms, aboard an elevator rated for {a}, how many crates weighing {c} may join them?"),
    ("Two ships leave a harbour at the same time, one due north at {a} knots, the other due east at {b} knots. How far apart are they after {c} hours?",
     "What separates two boats {c} hours after they parted from one port at a right angle, making {b} and {a} sea miles an hour?"),
    ("{n} plants {a} trees in a row with {b} m between neighbours. How far does {n} walk from the first to the last and back again?",
     "Between each tree of a line and the next one are {b} metres, and {a} trees stand there. What is the length of the trip along it in both directions by {n}?"),
    ("A number is multiplied by {a}, then {b} is subtracted, and the result divided by {c} gives 12. What was the number?",
     "Twelve comes out if one takes {b} away from the {a}-fold of something and shares the rest among {c}. Find that something."),
    ("In a tournament each of {a} teams plays every other team {b} times. How many matches take place?",
     "{a} clubs form a league in which any two meet {b} times. What does the fixture list count?"),
    ("A cube of edge {a} cm is painted on all sides and cut into cubes of edge 1 cm. How many of these have exactly two painted faces?",
     "Saw a coloured block, {a} centimetres in every direction, into unit cubes. On how many is there paint on two sides and no more?"),
    ("{n} drives {a} km using {b} litres of petrol for every 100 km, at {c} cents a litre. What does the trip cost?",
     "Fuel sells at {c} cents per litre; the car of {n} burns {b} litres each hundred kilometres. Work out the expense of going {a} kilometres."),
    ("The angles of a quadrilateral are in the ratio {a} : {b} : {c} : 5. What is its largest angle?",
     "Four angles that make 360 degrees relate to each other like {a}, {b}, {c} and 5. How big is the widest?"),
    ("A library lends {a} books on Monday, {b} percent more on Tuesday, and on Wednesday as many as on both days together. How many does it lend in the three days?",
     "Wednesday's loans equal those of the two days before it. If Monday had {a} and Tuesday exceeded that by {b} percent, what is the sum over all three?"),
    ("What is the smallest positive integer that leaves a remainder of {a} when divided by {b} and a remainder of 1 when divided by {c}?",
     "Find the least natural number which is one more than a multiple of {c} and {a} more than a multiple of {b}."),
    ("{n} cuts a ribbon of {a} m into pieces of {b} cm and pieces of {c} cm, the same number of each. What length is left over at most below one pair?",
     "From {a} metres of ribbon {n} takes one short piece of {b} cm and one long piece of {c} cm again and again. What remains when another couple cannot be had?"),
    ("A pool of {a} m by {b} m is surrounded by a path that is 2 m wide. How many tiles of 50 cm by 50 cm does the path need?",
     "Around a water basin, {b} metres wide and {a} metres long, runs a border of 2 metres. With how many square slabs of half a metre can it be paved?"),
    ("Half of the guests at a party leave at ten, a third of the others at eleven, and {a} are still there at midnight. How many came?",
     "At midnight {a} people remain of a party that had lost one half at ten o'clock and, an hour after, one in three of the rest. How big was it?"),
    ("A worker earns {a} coins an hour and {b} coins for every hour beyond 40 in a week. In one week the pay was {c}00 coins. How many hours were worked?",
     "For {c}00 coins in a week, how long did somebody work whose wage is {a} coins hourly, and {b} after the first 40 hours?"),
    ("{n} tosses a fair coin {a} times. What is the probability that heads comes up exactly {b} times?",
     "Among the results of {a} throws of a coin that is not loaded, how likely are just {b} heads for {n}?"),
    ("A jar with {a} cookies weighs {b}00 g, and with half of the cookies it weighs {c}0 g. How heavy is the empty jar?",
     "Full, with {a} biscuits inside, a glass is {b}00 grams; once every second biscuit is eaten it is {c}0. What does the glass alone weigh?"),
    ("The digits of a two-digit number add up to {a}. Exchanging them makes the number larger by {b}. Which number is it?",
     "Swap the figures of a number between 10 and 99 and it gains {b}; their sum is {a}. Determine it."),
    ("A cyclist goes uphill at {a} km/h and returns the same way downhill at {b} km/h. What is the average speed of the whole ride?",
     "Out at {a} and back at {b} kilometres an hour over one and the same slope: at which constant speed would the tour have lasted as long?"),
    ("{n} arranges {a} different books on a shelf so that {b} particular ones stand side by side. In how many ways can that be done?",
     "How many orders of {a} volumes are there in which a chosen {b} of them are not parted by any other, asks {n}."),
    ("A solution of {a} ml contains {b} percent salt. How much water has to evaporate until it contains {c} percent?",
     "To raise the salt content from {b} to {c} percent, what volume must be boiled off from {a} millilitres?"),
    ("In a hall {a} tables seat 4 people and {b} tables seat 6. For {c}0 guests, how many further chairs are needed?",
     "{c}0 people are invited and there are {b} tables for six as well as {a} for four. How many will find no seat?"),
    ("The first of {a} gears has {b} teeth and turns once; each following gear has 3 teeth more than the one before. How many turns does the last one make?",
     "Gears mesh in a line of {a}, beginning at {b} teeth and rising by 3 from wheel to wheel. When wheel one goes round once, what does the final wheel do?"),
    ("A shop sells pears in bags of {a} and in bags of {b}. What is the largest number of pears that cannot be bought exactly?",
     "If fruit comes only in packs of {b} or {a}, up to which amount is there one that no choice of packs makes up?"),
    ("{n} runs {a} rounds of a track of {b}00 m in {c} minutes. How many metres is that in a second?",
     "What is the speed in metres per second of {n}, who needs {c} minutes for {a} laps with a length of {b}00 metres?"),
    ("A well is {a} m deep. A bucket is pulled up {b} m with every turn of the handle, and slides back 1 m whenever {n} rests, which is after each {c} turns. How many turns bring it up?",
     "Each time {c} turns of a crank are done, {n} takes a break and the bucket drops by a metre; a turn lifts it {b} metres. How many are necessary to get it out of {a} metres of depth?"),
    ("How many zeros stand at the end of the product of all whole numbers from {a} to {b}{c}?",
     "Multiply together every integer starting at {a} and stopping at {b}{c}. In how many noughts does the decimal form end?"),
    ("A map has a scale of 1 to {a}000. On it a lake covers {b} square centimetres and a road along its shore is {c} cm long. How large are lake and road in reality?",
     "One centimetre stands for {a}000 in nature. Give the true size of a lake of {b} cm2 and the true length of a road of {c} cm that were measured on paper."),
)  # fmt: skip


@dataclass(frozen=True)
class Planted:
    """A problem of the benchmark, and the same one in other words."""

    id: str
    question: str
    paraphrase: str


def exam() -> list[Planted]:
    """The 200 items, the same in every run."""
    rng = random.Random(7)
    return [_filled(rng, number, *FRAMES[number % len(FRAMES)]) for number in range(ITEMS)]


def _filled(rng: random.Random, number: int, question: str, paraphrase: str) -> Planted:
    a, b, c = rng.sample(range(4, 99), 3)
    slots = {"n": rng.choice(NAMES), "a": a, "b": b, "c": c}
    return Planted(f"exam-{number:03}", question.format(**slots), paraphrase.format(**slots))


def kinds(item: Planted, rng: random.Random) -> Iterator[tuple[str, str]]:
    """The item as it might get into a pool: by kind, with the text."""
    text = item.question
    words = text.split()
    yield "verbatim", text
    yield "case and punctuation", "".join(" " if mark in ",.?:" else mark for mark in text.upper()) + " !!"
    yield "unicode tricks", _hidden(text)
    yield "inside a longer text", f"{rng.choice(AROUND)} {text} {rng.choice(AROUND)}"
    yield "one word changed", " ".join(_changed(words, rng, 1))
    yield "three words changed", " ".join(_changed(words, rng, 3))
    yield "other numbers", " ".join(_renumbered(word, rng) for word in words)
    yield "sentences in another order", _reordered(text)
    yield "half of it", " ".join(words[: (len(words) + 1) // 2])
    yield "paraphrase", item.paraphrase


AROUND = (
    "You are a careful tutor who explains every step in simple language and checks the result at the end.",
    "Read the task below twice before you begin, write down what is known, and draw a sketch where it helps.",
    "This exercise was handed out last week; those who were ill may send their solution until Friday evening.",
    "Answer with a single number on the last line, without a unit, and say how sure you are of it.",
)
_CYRILLIC = str.maketrans("aeopc", "\u0430\u0435\u043e\u0440\u0441")


def _hidden(text: str) -> str:
    wide = "".join(mark + "\u200b" if number % 7 == 3 else mark for number, mark in enumerate(text))
    return wide.translate(_CYRILLIC).replace(" ", "\u00a0", 4).replace("i", "\u00ed", 2)


def _changed(words: list[str], rng: random.Random, count: int) -> list[str]:
    out = list(words)
    for place in rng.sample(range(len(out)), min(count, len(out))):
        out[place] = rng.choice(("thing", "quite", "often", "maybe", "another"))
    return out


def _renumbered(word: str, rng: random.Random) -> str:
    return "".join(str(rng.randrange(1, 10)) if mark.isdigit() else mark for mark in word)


def _reordered(text: str) -> str:
    parts = text.replace("? ", "?|").replace(". ", ".|").split("|")
    return " ".join(parts[::-1]) if len(parts) > 1 else ", ".join(text.split(", ")[::-1])
