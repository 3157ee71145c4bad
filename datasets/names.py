"""The VTAB-1k data sets, what their folders are called, and the names of their classes."""

# Folder names in the community's order, with the number of classes.
VTAB = {
    "cifar": 100,
    "caltech101": 102,
    "dtd": 47,
    "oxford_flowers102": 102,
    "oxford_iiit_pet": 37,
    "svhn": 10,
    "sun397": 397,
    "patch_camelyon": 2,
    "eurosat": 10,
    "resisc45": 45,
    "diabetic_retinopathy": 5,
    "clevr_count": 8,
    "clevr_dist": 6,
    "dmlab": 6,
    "kitti": 4,
    "dsprites_loc": 16,
    "dsprites_ori": 16,
    "smallnorb_azi": 18,
    "smallnorb_ele": 9,
}

GROUPS = {
    "natural": tuple(VTAB)[:7],
    "specialised": tuple(VTAB)[7:11],
    "structured": tuple(VTAB)[11:],
}
"""VTAB's groups: the benchmark's number is the mean of their means (Zhai et al., 2019)."""

# Other copies' and codebases' names for some of the folders.
ALIASES = {"cifar100": "cifar", "oxford_pet": "oxford_iiit_pet", "oxford_flowers": "oxford_flowers102"}


# Where torchvision keeps the data sets of its classes below the root that it is given.
TORCHVISION = {
    "CIFAR10": "cifar-10-batches-py",
    "CIFAR100": "cifar-100-python",
    "DTD": "dtd",
    "EuroSAT": "eurosat",
    "FGVCAircraft": "fgvc-aircraft-2013b",
    "FashionMNIST": "FashionMNIST",
    "Flowers102": "flowers-102",
    "Food101": "food-101",
    "KMNIST": "KMNIST",
    "MNIST": "MNIST",
    "OxfordIIITPet": "oxford-iiit-pet",
    "STL10": "stl10_binary",
    "SUN397": "SUN397",
    "StanfordCars": "stanford_cars",
    "SVHN": "svhn",
}


def class_names(dataset: str) -> tuple[str, ...] | None:
    """The names of a known data set's classes in label order, or None."""
    dataset = ALIASES.get(dataset, dataset)
    if dataset in _NAMES:
        return _NAMES[dataset]
    return tuple(f"class {label}" for label in range(VTAB[dataset])) if dataset in VTAB else None


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.replace("_", " ") for word in text.split())


_DIGITS = tuple("0123456789")

_NAMES: dict[str, tuple[str, ...]] = {
    "mnist": _DIGITS,
    "svhn": _DIGITS,
    "cifar": _words(
        """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
        castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
        elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
        man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
        pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
        skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
        tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"""
    ),
    "dtd": _words(
        """banded blotchy braided bubbly bumpy chequered cobwebbed cracked crosshatched crystalline dotted fibrous
        flecked freckled frilly gauzy grid grooved honeycombed interlaced knitted lacelike lined marbled matted meshed
        paisley perforated pitted pleated polka-dotted porous potholed scaly smeared spiralled sprinkled stained
        stratified striped studded swirly veined waffled woven wrinkled zigzagged"""
    ),
    "oxford_iiit_pet": _words(
        """Abyssinian american_bulldog american_pit_bull_terrier basset_hound beagle Bengal Birman Bombay boxer
        British_Shorthair chihuahua Egyptian_Mau english_cocker_spaniel english_setter german_shorthaired
        great_pyrenees havanese japanese_chin keeshond leonberger Maine_Coon miniature_pinscher newfoundland Persian
        pomeranian pug Ragdoll Russian_Blue saint_bernard samoyed scottish_terrier shiba_inu Siamese Sphynx
        staffordshire_bull_terrier wheaten_terrier yorkshire_terrier"""
    ),
    "patch_camelyon": ("no tumor", "tumor"),
    "eurosat": _words(
        """annual_crop forest herbaceous_vegetation highway industrial pasture permanent_crop residential river
        sea_or_lake"""
    ),
    "resisc45": _words(
        """airplane airport baseball_diamond basketball_court beach bridge chaparral church circular_farmland cloud
        commercial_area dense_residential desert forest freeway golf_course ground_track_field harbor industrial_area
        intersection island lake meadow medium_residential mobile_home_park mountain overpass palace parking_lot
        railway railway_station rectangular_farmland river roundabout runway sea_ice ship snowberg sparse_residential
        stadium storage_tank tennis_court terrace thermal_power_station wetland"""
    ),
    "diabetic_retinopathy": ("no retinopathy", "mild", "moderate", "severe", "proliferative"),
    "clevr_count": tuple(f"{count} objects" for count in range(3, 11)),
    "clevr_dist": ("up to 8", "8 to 8.5", "8.5 to 9", "9 to 9.5", "9.5 to 10", "over 10"),
    "kitti": ("vehicle within 8 m", "vehicle at 8 to 20 m", "vehicle beyond 20 m", "no vehicle"),
    "dsprites_loc": tuple(f"x {part} of 16" for part in range(1, 17)),
    "dsprites_ori": tuple(f"orientation {part} of 16" for part in range(1, 17)),
    "smallnorb_azi": tuple(f"azimuth {degrees}" for degrees in range(0, 360, 20)),
    "smallnorb_ele": tuple(f"elevation {degrees}" for degrees in range(30, 75, 5)),
}
