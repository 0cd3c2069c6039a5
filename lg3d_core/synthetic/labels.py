"""Raw label table of the rooms, with synonyms of the class names and their ids."""

from lg3d_core.vocabulary import load_vocabulary

# Synonyms of class names.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "couch": ("sofa",),
    "tv": ("television", "flat screen tv"),
    "trash can": ("trashcan", "garbage can"),
    "refrigerator": ("fridge",),
    "nightstand": ("night stand", "bedside table"),
    "bookshelf": ("bookcase", "book shelf"),
    "monitor": ("computer monitor",),
    "file cabinet": ("filing cabinet",),
    "picture": ("painting",),
    "plant": ("houseplant",),
    "stool": ("bar stool",),
    "clothes": ("clothing",),
    "washing machine": ("washer",),
    "clothes dryer": ("dryer machine",),
    "paper": ("papers",),
    "shoe": ("shoes",),
    "dining table": ("dinner table",),
    "laundry hamper": ("hamper",),
    "cup": ("mug",),
    "toilet": ("toliet",),
    "curtain": ("curtains",),
}

# Labels outside the 200 classes: raw label, category, id, nyu40id.
OUTSIDE: tuple[tuple[str, str, int, int], ...] = (
    ("globe", "globe", 347, 40),
    ("rug", "rug", 383, 40),
    ("easel", "easel", 389, 39),
)

# nyu40 ids of classes other than "otherprop" (40).
NYU40: dict[int, tuple[str, ...]] = {
    1: ("wall", "closet wall", "shower wall"),
    2: ("floor", "shower floor"),
    3: ("cabinet", "kitchen cabinet", "bathroom cabinet", "file cabinet", "bathroom vanity"),
    4: ("bed", "mattress"),
    5: ("chair", "office chair", "armchair", "sofa chair", "folded chair", "seat"),
    6: ("couch",),
    7: ("table", "coffee table", "end table", "dining table"),
    8: ("door", "bathroom stall door", "shower door", "closet door"),
    9: ("window",),
    10: ("bookshelf",),
    11: ("picture", "poster"),
    12: ("counter", "kitchen counter", "bathroom counter"),
    13: ("blinds",),
    14: ("desk",),
    15: ("shelf", "storage organizer"),
    16: ("curtain",),
    17: ("dresser",),
    18: ("pillow", "cushion"),
    19: ("mirror",),
    20: ("mat",),
    21: ("clothes", "jacket"),
    22: ("ceiling",),
    23: ("book",),
    24: ("refrigerator", "mini fridge"),
    25: ("tv",),
    26: ("paper",),
    27: ("towel",),
    28: ("shower curtain",),
    29: ("box",),
    30: ("whiteboard",),
    31: ("person",),
    32: ("nightstand",),
    33: ("toilet",),
    34: ("sink",),
    35: ("lamp", "light", "ceiling light"),
    36: ("bathtub",),
    37: ("bag", "backpack", "purse", "paper bag"),
    38: ("column", "pillar", "doorframe", "stairs", "stair rail", "structure", "shower", "bathroom stall", "ledge"),
    39: (
        *("bench", "ottoman", "stool", "tv stand", "wardrobe", "closet", "rack", "stand", "cart", "piano", "furniture"),
        *("stove", "oven", "washing machine", "clothes dryer", "dishwasher", "copier", "machine", "radiator"),
        *("trash can", "trash bin", "bin", "recycling bin", "laundry hamper", "fireplace", "bar", "divider"),
    ),
}

OTHER_PROP = 40


def label_table() -> str:
    """Return the text of `scannetv2-labels.combined.tsv`: all 200 classes, their synonyms, and further labels."""
    nyu_by_name = {name: nyu for nyu, names in NYU40.items() for name in names}
    lines = ["id\traw_category\tcategory\tcount\tnyu40id"]
    for category in load_vocabulary().categories:
        nyu = nyu_by_name.get(category.name, OTHER_PROP)
        lines += [
            f"{category.id}\t{raw}\t{category.name}\t1\t{nyu}"
            for raw in (category.name, *SYNONYMS.get(category.name, ()))
        ]
    lines += [f"{raw_id}\t{raw}\t{category}\t1\t{nyu}" for raw, category, raw_id, nyu in OUTSIDE]
    return "\n".join(lines) + "\n"
