"""The words of the world: names, nouns and adjectives in English, French and Chinese.

The tables below are read once, at import. A row is one lemma; columns are separated by `|`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from course_lib.data.story_world.verbs import VERB_ROWS

SETTINGS = {
    "h": "home",
    "t": "town",
    "f": "farm",
    "r": "river",
    "s": "school",
    "w": "forest",
    "b": "beach",
}


@dataclass(frozen=True, eq=False)
class Noun:
    """A noun (or a name) in three languages.

    `gender` is the English pronoun's gender (`m`, `f`, `n`), `french_gender` the French noun's. `classes`
    says what can be done with the thing, `settings` where it is met (keys of `SETTINGS`, `*` for anywhere).
    `places` carry their prepositions: English, French, and the Chinese localiser.
    """

    lemma: str
    plural: str
    gender: str
    french: str
    french_gender: str
    french_plural: str
    chinese: str
    classifier: str
    classes: frozenset[str] = frozenset()
    settings: str = "*"
    is_name: bool = False
    preposition: str = ""
    french_preposition: str = ""
    localiser: str = ""

    @cached_property
    def weight(self) -> int:
        """How often a new thing is this one: the homonym *apple* comes up more than its share."""
        return 12 if self.lemma in ("apple", "Apple phone") else 2

    @cached_property
    def described_as(self) -> str:
        """The class of adjectives that a new thing of this noun may take."""
        found = next(
            (group for group in ("phone", "fruit", "food", "cook") if group in self.classes), "thing"
        )
        return "food" if found == "cook" else found


@dataclass(frozen=True, eq=False)
class Adjective:
    """An adjective in three languages; the four French forms, and where it stands in French."""

    lemma: str
    french: tuple[str, str, str, str]
    before_noun: bool
    before_vowel: str
    chinese: str
    classes: frozenset[str]

    @cached_property
    def chinese_attributive(self) -> tuple[str, ...]:
        """The words put before a Chinese noun: short adjectives stand alone, longer ones take 的."""
        return (self.chinese,) if len(self.chinese) == 1 else (self.chinese, "的")

    def french_form(self, gender: str, plural: bool) -> str:
        return self.french[(2 if plural else 0) + (1 if gender == "f" else 0)]


@dataclass(frozen=True)
class Word:
    """One entry of `vocabulary()`: lemma, part of speech, gender, forms, and both translations."""

    lemma: str
    part_of_speech: str
    gender: str
    forms: tuple[str, ...]
    french: str
    french_gender: str
    chinese: str


NAME_ROWS = """
Anna f 安娜|Clara f 克拉拉|Emma f 艾玛|Lucy f 露西|Mia f 米娅|Nora f 诺拉
Rosa f 罗莎|Sofia f 索菲亚|Julia f 朱莉娅|Lena f 莱娜|Alice f 爱丽丝|Eva f 伊娃
Tom m 汤姆|Max m 马克斯|Leo m 利奥|Paul m 保罗|David m 大卫|Felix m 菲利克斯
Oscar m 奥斯卡|Peter m 彼得|Sam m 萨姆|Adam m 亚当|Simon m 西蒙|Victor m 维克多
"""

# lemma|plural|gender|French|Chinese|classifier|settings
ROLE_ROWS = """
man|men|m|homme|男人|个|*
woman|women|f|femme|女人|个|*
boy|boys|m|garçon|男孩|个|*
girl|girls|f|fille|女孩|个|*
grandmother|grandmothers|f|grand-mère|奶奶|位|hf
grandfather|grandfathers|m|grand-père|爷爷|位|hf
waiter|waiters|m|serveur|男服务员|位|t
waitress|waitresses|f|serveuse|女服务员|位|t
postman|postmen|m|facteur|邮差|位|ht
fisherman|fishermen|m|pêcheur|渔夫|位|rb
policeman|policemen|m|policier|男警察|位|t
policewoman|policewomen|f|policière|女警察|位|t
king|kings|m|roi|国王|位|w
queen|queens|f|reine|王后|位|w
prince|princes|m|prince|王子|位|w
princess|princesses|f|princesse|公主|位|w
schoolboy|schoolboys|m|écolier|男学生|个|s
schoolgirl|schoolgirls|f|écolière|女学生|个|s
"""

# lemma|plural|French|French gender|French plural or -|Chinese|classifier|settings
ANIMAL_ROWS = """
dog|dogs|chien|m|-|狗|只|*
cat|cats|chat|m|-|猫|只|*
puppy|puppies|chiot|m|-|幼犬|只|hts
kitten|kittens|chaton|m|-|幼猫|只|hts
mouse|mice|souris|f|souris|老鼠|只|hfsw
parrot|parrots|perroquet|m|-|鹦鹉|只|h
pigeon|pigeons|pigeon|m|-|鸽子|只|t
horse|horses|cheval|m|chevaux|马|匹|f
pony|ponies|poney|m|-|矮马|匹|f
cow|cows|vache|f|-|奶牛|头|f
goat|goats|chèvre|f|-|山羊|只|f
hen|hens|poule|f|-|母鸡|只|f
sheep|sheep|mouton|m|-|绵羊|只|f
pig|pigs|cochon|m|-|猪|头|f
donkey|donkeys|âne|m|-|驴|头|f
goose|geese|oie|f|-|鹅|只|fr
duck|ducks|canard|m|-|鸭子|只|fr
frog|frogs|grenouille|f|-|青蛙|只|r
otter|otters|loutre|f|-|水獭|只|r
swan|swans|cygne|m|-|天鹅|只|r
rabbit|rabbits|lapin|m|-|兔子|只|fsw
fox|foxes|renard|m|-|狐狸|只|fw
bear|bears|ours|m|ours|熊|头|w
wolf|wolves|loup|m|-|狼|只|w
deer|deer|cerf|m|-|鹿|头|w
owl|owls|chouette|f|-|猫头鹰|只|w
squirrel|squirrels|écureuil|m|-|松鼠|只|sw
turtle|turtles|tortue|f|-|乌龟|只|rb
seagull|seagulls|mouette|f|-|海鸥|只|b
crab|crabs|crabe|m|-|螃蟹|只|b
"""

# lemma|plural|French|French gender|French plural or -|Chinese|classifier|classes|settings
THING_ROWS = """
ball|balls|ballon|m|-|球|个|find buy throw carry|*
kite|kites|cerf-volant|m|cerfs-volants|风筝|个|find buy carry break|hbs
doll|dolls|poupée|f|-|娃娃|个|find buy carry break|hts
drum|drums|tambour|m|-|鼓|个|find buy carry play|hts
flute|flutes|flûte|f|-|笛子|支|find buy carry play break|hts
guitar|guitars|guitare|f|-|吉他|把|find buy play break|hts
violin|violins|violon|m|-|小提琴|把|find buy play break|hts
book|books|livre|m|-|书|本|find buy read carry|hts
newspaper|newspapers|journal|m|journaux|报纸|份|find buy read carry|ht
letter|letters|lettre|f|-|信|封|find read carry write|hts
map|maps|carte|f|-|地图|张|find buy read carry|hsbw
notebook|notebooks|cahier|m|-|笔记本|本|find buy read carry|hs
diary|diaries|carnet|m|-|日记本|本|find buy read carry|hs
pen|pens|stylo|m|-|钢笔|支|find buy carry break|hts
pencil|pencils|crayon|m|-|铅笔|支|find buy carry break|hs
ruler|rulers|règle|f|-|尺子|把|find buy carry break|s
bag|bags|sac|m|-|包|个|find buy box carry wash|*
basket|baskets|panier|m|-|篮子|个|find buy box carry|hftwr
box|boxes|boîte|f|-|盒子|个|find buy box carry|hts
suitcase|suitcases|valise|f|-|手提箱|个|find buy box carry|ht
bucket|buckets|seau|m|seaux|水桶|个|find buy box carry wash|frb
hat|hats|chapeau|m|chapeaux|帽子|顶|find buy carry wash|*
coat|coats|manteau|m|manteaux|大衣|件|find buy wear wash|htsw
scarf|scarves|écharpe|f|-|围巾|条|find buy carry wash|htsw
shirt|shirts|chemise|f|-|衬衫|件|find buy wear carry wash|hts
dress|dresses|robe|f|-|裙子|条|buy wear carry wash|ht
jacket|jackets|veste|f|-|夹克|件|find buy wear wash|hts
umbrella|umbrellas|parapluie|m|-|雨伞|把|find buy carry break|htsb
ring|rings|bague|f|-|戒指|枚|find buy carry|*
necklace|necklaces|collier|m|-|项链|条|find buy carry break|htb
watch|watches|montre|f|-|手表|块|find buy carry break|hts
wallet|wallets|portefeuille|m|-|钱包|个|find buy carry|htb
key|keys|clé|f|-|钥匙|把|find carry|htsf
camera|cameras|appareil photo|m|appareils photo|相机|台|find buy carry break|htb
radio|radios|radio|f|-|收音机|台|find buy break|ht
computer|computers|ordinateur|m|-|电脑|台|buy break|hts
clock|clocks|horloge|f|-|时钟|个|find buy break|hts
mirror|mirrors|miroir|m|-|镜子|面|find buy carry break wash|ht
vase|vases|vase|m|-|花瓶|个|find buy carry break wash|ht
cup|cups|tasse|f|-|杯子|个|find buy carry break wash|hts
bowl|bowls|bol|m|-|碗|个|find buy carry break wash|h
plate|plates|assiette|f|-|盘子|个|find buy carry break wash|h
bottle|bottles|bouteille|f|-|瓶子|个|find buy carry break wash|hbr
spoon|spoons|cuillère|f|-|勺子|把|find buy carry wash|h
knife|knives|couteau|m|couteaux|刀|把|find buy carry wash|hrw
lamp|lamps|lampe|f|-|灯|盏|find buy carry break|hf
candle|candles|bougie|f|-|蜡烛|支|find buy carry|htw
blanket|blankets|couverture|f|-|毯子|条|find buy carry wash|hfb
pillow|pillows|oreiller|m|-|枕头|个|find buy carry wash|h
towel|towels|serviette|f|-|毛巾|条|find buy carry wash|hb
hammer|hammers|marteau|m|marteaux|锤子|把|find buy carry|hf
saw|saws|scie|f|-|锯子|把|find buy carry|fw
axe|axes|hache|f|-|斧头|把|find buy carry|fw
shovel|shovels|pelle|f|-|铲子|把|find buy carry|fb
ladder|ladders|échelle|f|-|梯子|架|find buy break|hf
rope|ropes|corde|f|-|绳子|根|find buy carry|frw
net|nets|filet|m|-|渔网|张|find buy carry break|rb
boat|boats|bateau|m|bateaux|船|艘|break|r
bicycle|bicycles|vélo|m|-|自行车|辆|find buy break ride|tsh
scooter|scooters|trottinette|f|-|滑板车|辆|find buy break ride|ts
sled|sleds|luge|f|-|雪橇|架|find buy break carry|w
cart|carts|charrette|f|-|手推车|辆|break|f
stone|stones|pierre|f|-|石头|块|find carry throw|rbwf
shell|shells|coquillage|m|-|贝壳|枚|find carry many|b
feather|feathers|plume|f|-|羽毛|根|find carry many|frw
leaf|leaves|feuille|f|-|叶子|片|find carry many|wsr
stick|sticks|bâton|m|-|棍子|根|find carry throw|rwf
flower|flowers|fleur|f|-|花|朵|find buy carry many|hfwts
rose|roses|rose|f|-|玫瑰|朵|find buy carry many|ht
coin|coins|pièce|f|-|硬币|枚|find carry many|tsb
ticket|tickets|billet|m|-|票|张|find buy carry many|t
stamp|stamps|timbre|m|-|邮票|枚|find buy carry many|t
photo|photos|photo|f|-|照片|张|find carry many|htb
picture|pictures|dessin|m|-|图画|幅|find carry paint|hs
present|presents|cadeau|m|cadeaux|礼物|份|find buy carry|ht
toy|toys|jouet|m|-|玩具|个|find buy carry many break|hts
apple|apples|pomme|f|-|苹果|个|find buy food fruit peel many carry|htfs
pear|pears|poire|f|-|梨|个|find buy food fruit peel many carry|htf
orange|oranges|orange|f|-|橙子|个|buy food peel many carry|hts
peach|peaches|pêche|f|-|桃子|个|find buy food fruit many carry|htf
banana|bananas|banane|f|-|香蕉|根|find buy food peel many carry|htsb
cherry|cherries|cerise|f|-|樱桃|颗|buy food fruit many|htf
plum|plums|prune|f|-|李子|个|find buy food fruit many carry|htf
lemon|lemons|citron|m|-|柠檬|个|buy food peel many carry|ht
strawberry|strawberries|fraise|f|-|草莓|颗|buy find food many|tf
mushroom|mushrooms|champignon|m|-|蘑菇|个|find buy cook many|wt
potato|potatoes|pomme de terre|f|pommes de terre|土豆|个|buy cook peel many|htf
carrot|carrots|carotte|f|-|胡萝卜|根|find buy food cook peel many carry|htf
tomato|tomatoes|tomate|f|-|西红柿|个|buy food cook many carry|htf
onion|onions|oignon|m|-|洋葱|个|buy cook peel many|htf
egg|eggs|œuf|m|-|鸡蛋|个|buy find cook many|hf
pie|pies|tarte|f|-|馅饼|个|buy food bake|ht
cake|cakes|gâteau|m|gâteaux|蛋糕|块|find buy food bake carry|ht
biscuit|biscuits|biscuit|m|-|饼干|块|find buy food bake many carry|hts
sandwich|sandwiches|sandwich|m|-|三明治|个|find buy food carry|tsb
pizza|pizzas|pizza|f|-|比萨饼|个|buy food bake|ht
soup|soups|soupe|f|-|汤|碗|food cook|h
omelette|omelettes|omelette|f|-|煎蛋卷|个|food cook|h
salad|salads|salade|f|-|沙拉|份|buy food cook|h
phone|phones|téléphone|m|-|手机|部|phone carry|ht
Apple phone|Apple phones|téléphone Apple|m|téléphones Apple|苹果 手机|部|phone carry|ht
pancake|pancakes|crêpe|f|-|薄饼|张|buy food cook many|htb
sausage|sausages|saucisse|f|-|香肠|根|find buy food cook many|htf
"""

# lemma|plural|French|French gender|Chinese|classifier|two prepositions|localiser|classes|setting
PLACE_ROWS = """
kitchen|kitchens|cuisine|f|厨房|间|in|dans|里|cook indoors|h
bedroom|bedrooms|chambre|f|卧室|间|in|dans|里|indoors sleep|h
bathroom|bathrooms|salle de bains|f|浴室|间|in|dans|里|indoors wash|h
cellar|cellars|cave|f|地下室|间|in|dans|里|indoors|h
attic|attics|grenier|m|阁楼|间|in|dans|里|indoors|h
garden|gardens|jardin|m|花园|座|in|dans|里|tree|h
garage|garages|garage|m|车库|间|in|dans|里|indoors|h
balcony|balconies|balcon|m|阳台|个|on|sur|上||h
street|streets|rue|f|街道|条|in|dans|上||t
market|markets|marché|m|市场|个|at|à|里|shop|t
shop|shops|magasin|m|商店|家|in|dans|里|shop indoors|t
park|parks|parc|m|公园|座|in|dans|里|grass|t
station|stations|gare|f|车站|座|at|à|里||t
museum|museums|musée|m|博物馆|座|in|dans|里|indoors|t
cinema|cinemas|cinéma|m|电影院|家|at|à|里|indoors|t
restaurant|restaurants|restaurant|m|餐馆|家|in|dans|里|indoors|t
hospital|hospitals|hôpital|m|医院|家|in|à|里|indoors|t
barn|barns|grange|f|谷仓|座|in|dans|里|indoors sleep|f
stable|stables|écurie|f|马厩|间|in|dans|里|indoors|f
field|fields|champ|m|田野|片|in|dans|里|grass|f
orchard|orchards|verger|m|果园|座|in|dans|里|tree|f
meadow|meadows|pré|m|草地|片|in|dans|上|grass|f
farmyard|farmyards|cour de ferme|f|农家院子|个|in|dans|里||f
mill|mills|moulin|m|磨坊|座|in|dans|里|indoors|r
bridge|bridges|pont|m|桥|座|on|sur|上|water|r
island|islands|île|f|小岛|座|on|sur|上|water grass|r
waterfall|waterfalls|cascade|f|瀑布|道|at|à|边|water|r
jetty|jetties|ponton|m|码头|个|on|sur|上|water|r
classroom|classrooms|salle de classe|f|教室|间|in|dans|里|indoors|s
library|libraries|bibliothèque|f|图书馆|座|in|à|里|indoors|s
playground|playgrounds|cour de récréation|f|操场|个|in|dans|上||s
gym|gyms|gymnase|m|体育馆|座|in|dans|里|indoors|s
cafeteria|cafeterias|cantine|f|食堂|个|in|à|里|indoors|s
clearing|clearings|clairière|f|林间空地|片|in|dans|里|grass|w
cave|caves|grotte|f|山洞|个|in|dans|里|indoors sleep|w
castle|castles|château|m|城堡|座|in|dans|里|indoors|w
hut|huts|cabane|f|小屋|间|in|dans|里|indoors sleep cook|w
path|paths|sentier|m|小路|条|on|sur|上||w
hill|hills|colline|f|小山|座|on|sur|上|grass|w
beach|beaches|plage|f|沙滩|片|on|sur|上|water|b
harbour|harbours|port|m|港口|个|in|dans|里|water|b
lighthouse|lighthouses|phare|m|灯塔|座|in|dans|里|indoors|b
hotel|hotels|hôtel|m|旅馆|家|in|à|里|indoors sleep|b
cliff|cliffs|falaise|f|悬崖|座|on|sur|上||b
"""

# These two are one English word; every sentence that first puts somebody there shows which one is meant.
BANK_ROWS = """
bank|banks|rive|f|河岸|个|on|sur|上|water river_bank|r
bank|banks|banque|f|银行|家|at|à|里|indoors money_bank|t
"""

# What stands in the way, and what a bank is seen with: nothing here has a state. Last column: classes.
SCENERY_ROWS = """
street|streets|rue|f|街|条|road
road|roads|route|f|公路|条|road
square|squares|place|f|广场|个|road
stream|streams|ruisseau|m|小溪|条|stream
river|rivers|rivière|f|河|条|stream water
bridge|bridges|pont|m|桥|座|way
ditch|ditches|fossé|m|水沟|条|way
water|waters|eau|f|水|些|water
sunset|sunsets|coucher de soleil|m|日落|次|water
money|monies|argent|m|钱|些|money
cash|cash|argent liquide|m|现金|些|money
"""

# lemma|French masculine|feminine or -|Chinese|classes; a leading < marks an adjective before the French noun
ADJECTIVE_ROWS = """
red|rouge|rouge|红色|colour
blue|bleu|-|蓝色|colour
green|vert|-|绿色|colour
yellow|jaune|jaune|黄色|colour
black|noir|-|黑色|colour animal
white|blanc|blanche|白色|colour animal
grey|gris|-|灰色|colour animal
brown|brun|-|棕色|colour animal
purple|violet|violette|紫色|colour
small|<petit|-|小|size animal box_too
big|<grand|-|大|size animal thing_too
long|<long|longue|长|long
tall|grand|-|高个子|role
old|<vieux|vieille|旧|thing
young|<jeune|jeune|年轻|role
elderly|âgé|-|年老|role
rich|riche|riche|富有|role
poor|pauvre|pauvre|贫穷|role poor_too
shy|timide|timide|害羞|role
new|<nouveau|nouvelle|新|thing
beautiful|<beau|belle|漂亮|thing
strange|étrange|étrange|奇怪|thing
cheap|bon marché|bon marché|便宜|
lovely|<joli|-|可爱|thing animal
fat|<gros|grosse|胖|animal
thin|maigre|maigre|瘦|animal
sweet|sucré|-|甜|fruit
ripe|mûr|-|熟|fruit
fresh|frais|fraîche|新鲜|food
delicious|délicieux|délicieuse|美味|food
happy|heureux|heureuse|高兴|glad
glad|content|-|开心|glad
proud|fier|fière|自豪|glad
calm|calme|calme|平静|glad
cheerful|joyeux|joyeuse|快乐|glad
excited|ravi|-|兴奋|glad
sad|triste|triste|难过|sorry
angry|fâché|-|生气|sorry
worried|inquiet|inquiète|担心|sorry
lonely|seul|-|孤独|sorry
afraid|effrayé|-|害怕|sorry
upset|bouleversé|-|伤心|sorry
jealous|jaloux|jalouse|嫉妒|sorry
tired|fatigué|-|累|need tired_too
hungry|affamé|-|饿|need
thirsty|assoiffé|-|渴|need
sleepy|somnolent|-|困|need tired_too
ill|malade|malade|不舒服|need tired_too
weak|faible|faible|虚弱|tired_too
scared|apeuré|-|惊慌|tired_too
wide|large|large|宽|road_too stream_too thing_too
busy|fréquenté|-|繁忙|road_too
noisy|bruyant|-|吵闹|road_too
dangerous|dangereux|dangereuse|危险|cross_too
slippery|glissant|-|滑|cross_too river_bank
deep|profond|-|深|stream_too
heavy|lourd|-|重|heavy_too
expensive|cher|chère|贵|price_too
narrow|étroit|-|窄|box_too
full|plein|-|满|box_too
thick|épais|épaisse|厚|thing_too
sour|acide|acide|酸|taste_too
hot|chaud|-|烫|taste_too
bitter|amer|amère|苦|taste_too
hard|dur|-|硬|taste_too
muddy|boueux|boueuse|泥泞|river_bank
steep|escarpé|-|陡峭|river_bank
wet|humide|humide|潮湿|river_bank
closed|fermé|-|关门|money_bank
open|ouvert|-|开门|money_bank
cold|froid|-|冷|weather
warm|doux|douce|暖和|weather
dry|sec|sèche|干燥|weather
sunny|ensoleillé|-|晴朗|weather
bright|lumineux|lumineuse|明亮|screen
dark|sombre|sombre|暗|screen
clear|clair|-|清晰|screen
broken|cassé|-|坏|
clean|propre|propre|干净|
"""

_BEFORE_VOWEL = {"vieux": "vieil", "nouveau": "nouvel", "beau": "bel"}
_NUMBERS = ((2, "two", "deux", "两"), (3, "three", "trois", "三"), (4, "four", "quatre", "四"))
COUNT_WORDS = {count: (english, french, chinese) for count, english, french, chinese in _NUMBERS}


def _rows(table: str) -> Iterator[list[str]]:
    for line in table.strip().splitlines():
        yield line.split("|")


def french_plural(word: str) -> str:
    """The regular French plural: `-s`, `-x` and `-z` stay, `-eau` takes x, `-al` becomes `-aux`."""
    if word[-1] in "sxz":
        return word
    return word + "x" if word.endswith("eau") else word + "s"


def _names() -> tuple[Noun, ...]:
    entries = [cell.split() for line in NAME_ROWS.strip().splitlines() for cell in line.split("|")]
    return tuple(
        Noun(name, name, gender, name, gender, name, chinese, "", is_name=True)
        for name, gender, chinese in entries
    )


def _roles() -> tuple[Noun, ...]:
    return tuple(
        Noun(lemma, plural, gender, french, gender, french_plural(french), chinese, unit, settings=settings)
        for lemma, plural, gender, french, chinese, unit, settings in _rows(ROLE_ROWS)
    )


def _animals() -> tuple[Noun, ...]:
    return tuple(
        Noun(lemma, plural, "n", french, gender, _or_regular(many, french), chinese, unit, settings=settings)
        for lemma, plural, french, gender, many, chinese, unit, settings in _rows(ANIMAL_ROWS)
    )


def _or_regular(cell: str, french: str) -> str:
    return french_plural(french) if cell == "-" else cell


def _things() -> tuple[Noun, ...]:
    return tuple(
        Noun(
            lemma,
            plural,
            "n",
            french,
            gender,
            _or_regular(many, french),
            chinese,
            unit,
            frozenset(classes.split()),
            settings,
        )
        for lemma, plural, french, gender, many, chinese, unit, classes, settings in _rows(THING_ROWS)
    )


def _places(table: str) -> tuple[Noun, ...]:
    return tuple(_place(*row) for row in _rows(table))


def _place(
    lemma: str,
    plural: str,
    french: str,
    gender: str,
    chinese: str,
    unit: str,
    english_in: str,
    french_in: str,
    localiser: str,
    classes: str,
    setting: str,
) -> Noun:
    return Noun(
        lemma,
        plural,
        "n",
        french,
        gender,
        french_plural(french),
        chinese,
        unit,
        frozenset(classes.split()),
        setting,
        preposition=english_in,
        french_preposition=french_in,
        localiser=localiser,
    )


def _scenery() -> tuple[Noun, ...]:
    return tuple(
        Noun(
            lemma,
            many,
            "n",
            french,
            gender,
            french_plural(french),
            chinese,
            unit,
            frozenset(classes.split()),
        )
        for lemma, many, french, gender, chinese, unit, classes in _rows(SCENERY_ROWS)
    )


def _adjectives() -> tuple[Adjective, ...]:
    return tuple(_adjective(*row) for row in _rows(ADJECTIVE_ROWS))


def _adjective(lemma: str, french: str, feminine: str, chinese: str, classes: str) -> Adjective:
    masculine = french.removeprefix("<")
    feminine = masculine + "e" if feminine == "-" else feminine
    invariable = " " in masculine
    plurals = [form if invariable else french_plural(form) for form in (masculine, feminine)]
    return Adjective(
        lemma,
        (masculine, feminine, plurals[0], plurals[1]),
        french.startswith("<"),
        _BEFORE_VOWEL.get(masculine, masculine),
        chinese,
        frozenset(classes.split()),
    )


NAMES = _names()
ROLES = _roles()
ANIMALS = _animals()
THINGS = _things()
PLACES = _places(PLACE_ROWS)
BANKS = _places(BANK_ROWS)
SCENERY = _scenery()
ADJECTIVES = _adjectives()


def adjectives_of(group: str) -> tuple[Adjective, ...]:
    """The adjectives of one class, such as `colour` or `glad`, in the table's order."""
    return tuple(adjective for adjective in ADJECTIVES if group in adjective.classes)


def vocabulary() -> tuple[Word, ...]:
    """Every lemma of the world, with part of speech, gender, forms and both translations."""
    nouns = [(noun, "noun") for noun in (*ROLES, *ANIMALS, *THINGS, *PLACES, *BANKS, *SCENERY)]
    nouns += [(name, "name") for name in NAMES]
    words = [
        Word(n.lemma, part, n.gender, (n.lemma, n.plural), n.french, n.french_gender, n.chinese)
        for n, part in nouns
    ]
    words += [Word(a.lemma, "adjective", "", (a.lemma,), a.french[0], "", a.chinese) for a in ADJECTIVES]
    words += [
        Word(lemma, "verb", "", (lemma, past), french, "", chinese)
        for lemma, past, french, chinese in _rows(VERB_ROWS)
    ]
    words += [Word(w[1], "numeral", "", (w[1],), w[2], "", w[3]) for w in _NUMBERS]
    return tuple(words)
