"""What the starter model's pictures show, and how captions describe them. No heavy imports."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

STYLES = ("noto", "twemoji", "flat", "glossy")

BACKGROUNDS = {
    "white": (255, 255, 255),
    "black": (24, 24, 24),
    "gray": (150, 150, 150),
    "red": (214, 48, 49),
    "orange": (243, 146, 40),
    "yellow": (250, 218, 80),
    "green": (70, 170, 80),
    "teal": (30, 150, 150),
    "blue": (50, 105, 215),
    "purple": (130, 70, 180),
    "pink": (250, 160, 190),
    "brown": (125, 80, 50),
}

# noun → icon id, the same in all four sets; the ones that a short training should know come first
_FIRST = """cat=cat-face dog=dog-face rabbit=rabbit-face fox bear panda lion pig=pig-face frog
monkey=monkey-face penguin owl unicorn turtle octopus crab butterfly bee=honeybee
ladybug=lady-beetle elephant whale=spouting-whale apple=red-apple banana cherries grapes lemon pear
strawberry watermelon tomato carrot mushroom burger=hamburger pizza donut=doughnut car=automobile
bus airplane rocket ufo=flying-saucer sailboat house cactus palm=palm-tree tree=deciduous-tree
sunflower star rainbow snowman=snowman-without-snow robot ghost alien pumpkin=jack-o-lantern
teddy=teddy-bear balloon gift=wrapped-gift umbrella crown heart=red-heart backpack"""
_SECOND = """tiger=tiger-face cow=cow-face mouse=mouse-face horse=horse-face dragon=dragon-face duck flamingo
snake dolphin snail giraffe dinosaur=t-rex peach pineapple avocado broccoli eggplant croissant
pretzel cheese=cheese-wedge taco hotdog=hot-dog fries=french-fries cookie cake=birthday-cake cupcake
coffee=hot-beverage taxi tractor train=locomotive helicopter castle tent pine=evergreen-tree rose
tulip clover=four-leaf-clover leaf=maple-leaf sun moon=crescent-moon snowflake fire volcano skull
football=soccer-ball basketball guitar camera laptop bulb=light-bulb pencil hat=top-hat
diamond=gem-stone clock=alarm-clock magnet trophy shoe=running-shoe shirt=t-shirt dress anchor"""
_THIRD = """koala hamster parrot crocodile fish=tropical-fish hedgehog bat chick=front-facing-baby-chick
corn=ear-of-corn bread lollipop popcorn beer=beer-mug ambulance bicycle scooter=motor-scooter
earth=globe-showing-europe-africa violin trumpet drum television key hammer scissors bell
hourglass=hourglass-done candle"""


def _nouns(*groups: str) -> dict[str, str]:
    pairs = (entry.partition("=") for group in groups for entry in group.split())
    return {noun: icon or noun for noun, _, icon in pairs}


NOUNS = _nouns(_FIRST, _SECOND, _THIRD)

# Left out of the large vocabulary: people, text, flags, symbols and near-duplicates.
_LEFT_OUT = re.compile(
    r"\b(man|woman|person|people|boy|girl|baby|santa|claus|hand|hands|fist|finger|arrow|button|flag|keycap"
    r"|oclock|thirty|moon|japanese|banknote|input|umbrella|sun|card|face|sign|mailbox|phone|medal|square"
    r"|circle|book|clock|speaker|oncoming|service|guide|facing|black|cityscape|water|chart|folder|tray"
    r"|page|symbol|mark|diamond|triangle|dash|no|globe|leg|arm|ear|suit|lab|bust|busts|tuxedo|princess"
    r"|prince|ninja|fairy|elf|genie|mage|zombie|vampire|superhero|tram|metro|station|mrs|mx|detective"
    r"|horizontal|skier|snowboarder|surfing|swimming|rowing|biking|racing|lifting|climbing|golfing"
    r"|yen|pound|euro|dollar|hole|beads|cigarette|dagger|pistol|bomb|coffin|urn|syringe|kaaba|torii"
    r"|mosque|synagogue|shrine|temple|cross|menorah|khanda|worship)\b"
)
GROUPS = ("Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects")


def nouns(count: int | None, shared: Sequence[str] = ()) -> dict[str, str]:
    """Noun → icon id: the hand-picked ones first, then from ``shared`` ids up to ``count`` in all."""
    chosen = dict(NOUNS)
    used = set(chosen.values())
    for icon in sorted(shared):
        words = icon.replace("-", " ")
        if icon not in used and words not in chosen and not _LEFT_OUT.search(words):
            chosen[words] = icon
    return dict(list(chosen.items())[:count])


@dataclass(frozen=True)
class Placed:
    """One object: noun, style, edge length as a share of the picture, offset of its centre in shares."""

    noun: str
    style: str
    size: float
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True)
class Scene:
    """One picture: a plain background and one or two objects of one style."""

    background: str
    objects: tuple[Placed, ...]
    relation: str = ""  # "", "left", "right", "next"
    place: str = ""  # "", "left", "right", "top", "bottom" of a single small object

    @property
    def style(self) -> str:
        return self.objects[0].style


def held_out(names: Sequence[str], share: float = 0.05, seed: int = 7) -> frozenset[tuple[str, str]]:
    """The name × style pairs that training never sees; at most one style of a name."""
    rng = random.Random(seed)
    count = round(len(names) * len(STYLES) * share)
    if count > len(names):
        raise ValueError("at most one style of each name can be held out: lower the share")
    return frozenset((name, rng.choice(STYLES)) for name in rng.sample(sorted(names), count))


def single(
    noun: str, style: str, background: str, rng: random.Random, places: bool = False, loose: float = 1.0
) -> Scene:
    """One object near the centre, or with ``places`` sometimes a small one at a named side.

    ``loose`` scales how much size and place vary; at 0 the object stands in the middle at one size.
    """
    if places and rng.random() < 0.3:
        place = rng.choice(("left", "right", "top", "bottom"))
        dx, dy = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}[place]
        size = rng.uniform(0.4, 0.55)
        return Scene(background, (Placed(noun, style, size, dx * 0.21, dy * 0.21),), place=place)
    size = 0.86 + loose * rng.uniform(-0.08, 0.04)
    shift = loose * (1 - size) / 3
    return Scene(
        background, (Placed(noun, style, size, rng.uniform(-shift, shift), rng.uniform(-shift, shift)),)
    )


def pair(first: str, second: str, style: str, background: str, rng: random.Random) -> Scene:
    """Two objects side by side; the first named stands left, right, or on either side of the second."""
    relation = rng.choice(("left", "right", "next"))
    left_first = relation == "left" or (relation == "next" and rng.random() < 0.5)
    x = -0.24 if left_first else 0.24
    sizes = [rng.uniform(0.42, 0.48) for _ in range(2)]
    heights = [rng.uniform(-0.1, 0.1) for _ in range(2)]
    objects = (
        Placed(first, style, sizes[0], x, heights[0]),
        Placed(second, style, sizes[1], -x, heights[1]),
    )
    return Scene(background, objects, relation)


def with_article(words: str) -> str:
    """The words with "a" or "an"; plurals go without an article."""
    if words.endswith(("ies", "apes")) and not words.endswith("ookies"):
        return words
    return f"{'an' if words[0] in 'aeiou' and not words.startswith(('uni', 'ufo', 'eu')) else 'a'} {words}"


def caption(scene: Scene, rng: random.Random, unsaid: float = 0.15) -> str:
    """A caption in one of several word orders; style, colour and place are each left out with chance ``unsaid``."""
    style = scene.style if rng.random() > unsaid else ""
    colour = scene.background if rng.random() > unsaid else ""
    if len(scene.objects) == 2:
        between = {"left": "to the left of", "right": "to the right of", "next": "next to"}[scene.relation]
        first, second = (with_article(placed.noun) for placed in scene.objects)
        subject = f"{first} {between} {second}"
    else:
        subject = with_article(scene.objects[0].noun)
    medium = rng.choice(("", "", "a sticker of ", "a picture of ", "a photo of "))
    place = ""
    if scene.place and rng.random() > unsaid:
        place = {"left": " on the left", "right": " on the right"}.get(scene.place, f" at the {scene.place}")
    behind = rng.choice((" on a {0} background", " on {0}", ", {0} background")).format(colour)
    behind = behind.replace(" a orange", " an orange") if colour else ""
    if not style:
        return f"{medium}{subject}{place}{behind}"
    order = rng.randrange(4)
    if order == 0:
        return f"{medium}{subject}{place}{behind}, {style} style"
    if order == 1:
        return f"{medium}{subject}{place}, {style} style{behind}"
    if order == 2:
        return f"{style} style, {medium}{subject}{place}{behind}"
    return f"{with_article(style)} sticker of {subject}{place}{behind}"


def plain_caption(scene: Scene) -> str:
    """The full caption in the word order that evaluation uses."""
    nouns_ = [with_article(placed.noun) for placed in scene.objects]
    between = {"left": " to the left of ", "right": " to the right of ", "next": " next to ", "": ""}
    subject = between[scene.relation].join(nouns_)
    return f"{subject} on {with_article(scene.background)} background, {scene.style} style"


def words(names: Sequence[str]) -> list[str]:
    """Every word that captions of these names can hold, for the tokenizer."""
    fixed = (
        "a an the of on to at in with and sticker picture photo style background left right top bottom next "
        "icon drawing small large light dark"
    )
    found = {word for name in (*names, *STYLES, *BACKGROUNDS, fixed) for word in name.split()}
    return sorted(found)


def distracted(text: str, rng: random.Random, share: float = 0.08) -> str:
    """The caption, sometimes with a made-up word in it, so that the model learns to pass over such words."""
    if rng.random() > share:
        return text
    made_up = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 6)))
    parts = text.split(" ")
    parts.insert(rng.randrange(len(parts) + 1), made_up)
    return " ".join(parts)
