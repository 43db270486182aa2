"""The Debian packages whose fonts the images are rendered from; all in the main section of Debian 12."""

# fmt: off
PACKAGES: tuple[str, ...] = (
    "fonts-3270", "fonts-adf-accanthis", "fonts-adf-baskervald", "fonts-adf-berenis", "fonts-adf-gillius",
    "fonts-adf-ikarius", "fonts-adf-irianis", "fonts-adf-libris", "fonts-adf-mekanus", "fonts-adf-romande",
    "fonts-adf-switzera", "fonts-adf-tribun", "fonts-adf-universalis", "fonts-adf-verana", "fonts-agave",
    "fonts-allerta", "fonts-anonymous-pro", "fonts-arapey", "fonts-averia-gwf", "fonts-averia-sans-gwf",
    "fonts-averia-serif-gwf", "fonts-b612", "fonts-beteckna", "fonts-cabin", "fonts-campania", "fonts-cantarell",
    "fonts-cardo", "fonts-century-catalogue", "fonts-clear-sans", "fonts-cmu", "fonts-comfortaa", "fonts-comic-neue",
    "fonts-courier-prime", "fonts-croscore", "fonts-crosextra-caladea", "fonts-crosextra-carlito",
    "fonts-dejavu-core", "fonts-dejavu-extra", "fonts-dosis", "fonts-eurofurence", "fonts-fantasque-sans",
    "fonts-firacode", "fonts-freefont-ttf", "fonts-gfs-artemisia", "fonts-gfs-didot", "fonts-gfs-neohellenic",
    "fonts-gnutypewriter", "fonts-go", "fonts-hack", "fonts-hermit", "fonts-inconsolata", "fonts-inter",
    "fonts-jetbrains-mono", "fonts-junicode", "fonts-jura", "fonts-karla", "fonts-lato", "fonts-league-mono",
    "fonts-league-spartan", "fonts-liberation", "fonts-linuxlibertine", "fonts-lmodern", "fonts-lobstertwo",
    "fonts-manrope", "fonts-monoid", "fonts-mononoki", "fonts-noto-core", "fonts-noto-mono", "fonts-ocr-a",
    "fonts-ocr-b", "fonts-oldstandard", "fonts-open-sans", "fonts-opendyslexic", "fonts-osifont", "fonts-oxygen",
    "fonts-paratype", "fonts-play", "fonts-quattrocento", "fonts-quicksand", "fonts-radisnoir", "fonts-roadgeek",
    "fonts-roboto-slab", "fonts-roboto-unhinted", "fonts-sil-andika", "fonts-sil-charis", "fonts-sil-doulos",
    "fonts-sil-gentium", "fonts-sil-gentium-basic", "fonts-sil-gentiumplus", "fonts-sora", "fonts-stix",
    "fonts-texgyre", "fonts-tiresias", "fonts-tomsontalks", "fonts-tuffy", "fonts-uralic", "fonts-urw-base35",
    "fonts-yanone-kaffeesatz", "fonts-yrsa-rasa",
)

# Packages that hold the same design, or redrawings of one: all go to training, or all to the test.
RELATED: tuple[tuple[str, ...], ...] = (
    ("fonts-urw-base35", "fonts-texgyre", "fonts-uralic", "fonts-freefont-ttf", "fonts-liberation", "fonts-croscore",
     "fonts-adf-switzera", "fonts-adf-tribun", "fonts-stix"),
    ("fonts-dejavu-core", "fonts-dejavu-extra", "fonts-adf-verana", "fonts-hack"),
    ("fonts-averia-gwf", "fonts-averia-sans-gwf", "fonts-averia-serif-gwf"),
    ("fonts-sil-gentium", "fonts-sil-gentium-basic", "fonts-sil-gentiumplus"),
    ("fonts-sil-charis", "fonts-sil-doulos"),
    ("fonts-cmu", "fonts-lmodern"),
    ("fonts-noto-core", "fonts-noto-mono", "fonts-open-sans"),
    ("fonts-roboto-slab", "fonts-roboto-unhinted"),
    ("fonts-lato", "fonts-crosextra-carlito"),
)
# fmt: on
