"""The words of the tiny CLIP: what it can name, which drawings show it, and the sentences it is trained with.

One entry of ``TABLE`` reads ``name|synonym|synonym < label, label``: the drawings whose Unicode (CLDR) short name
is one of the labels show the name. Without ``<`` the label is the name itself. All synonyms were chosen by hand;
words that are only related (``fruit`` for ``apple``) are left out, and ``BROADER_TABLE`` keeps a name from being
counted as wrong for something it includes.
"""

from __future__ import annotations

TABLE = """
monkey < monkey, monkey face; gorilla; orangutan; dog|puppy < dog, dog face, guide dog, service dog; poodle; wolf;
fox; raccoon; cat|kitten|house cat < cat, cat face, black cat; lion; tiger < tiger, tiger face; leopard; horse|pony
< horse, horse face; moose; donkey; unicorn; zebra; deer; bison|buffalo < bison, water buffalo; cow < cow, cow face;
ox|bull; pig|hog < pig, pig face; boar|wild boar; ram; sheep < ewe; goat; camel < camel, two-hump camel;
llama|alpaca; giraffe; elephant; mammoth; rhinoceros|rhino; hippopotamus|hippo; mouse < mouse, mouse face; rat;
hamster; rabbit|bunny < rabbit, rabbit face; chipmunk|squirrel; beaver; hedgehog; bat; bear; polar bear; koala;
panda|panda bear; sloth; otter; skunk; kangaroo; badger; turkey; chicken|hen; rooster; chick < baby chick,
front-facing baby chick, hatching chick; bird < bird, black bird; penguin; dove|pigeon; eagle; duck; swan; owl;
dodo; feather; flamingo; peacock; parrot; wing; goose; frog; crocodile|alligator; turtle|tortoise; lizard; snake;
dragon < dragon, dragon face; brontosaurus < sauropod; T-Rex|tyrannosaurus; whale < whale, spouting whale; dolphin;
orca|killer whale; seal; fish < fish, tropical fish; blowfish|pufferfish; shark; octopus; shell|seashell < spiral
shell; coral; jellyfish; crab; lobster; shrimp|prawn < shrimp, fried shrimp; squid; oyster; snail; butterfly;
caterpillar < bug; ant; bee|honeybee < honeybee; beetle; ladybug|ladybird < lady beetle; cricket|grasshopper;
cockroach; spider; spider web|cobweb; scorpion; mosquito; fly|housefly; worm; bouquet; cherry blossom; lotus; rose;
hibiscus; sunflower; daisy < blossom; tulip; hyacinth|lavender; seedling|sprout; potted plant|houseplant; pine
tree|evergreen tree|fir tree < evergreen tree; tree|deciduous tree < deciduous tree; palm tree; cactus; wheat <
sheaf of rice; clover < shamrock, four leaf clover; maple leaf; nest|bird nest < empty nest, nest with eggs;
mushroom|toadstool < mushroom, brown mushroom; bare tree < leafless tree; log|firewood < wood; acorn;
grapes|grape|bunch of grapes; melon|cantaloupe; watermelon; orange|tangerine|mandarin < tangerine; lemon; lime;
banana|bananas; pineapple; mango; apple < red apple, green apple; pear; peach; cherry|cherries < cherries;
strawberry|strawberries; blueberries|blueberry; kiwi|kiwi fruit < kiwi fruit; tomato; olive|olives; coconut;
avocado; eggplant|aubergine; potato; carrot; corn|maize|ear of corn < ear of corn; chili pepper|hot pepper|chilli <
hot pepper; bell pepper|pepper; cucumber|pickle; lettuce|leafy green < leafy green; broccoli; garlic; onion;
peanut|peanuts < peanuts; beans; chestnut; ginger < ginger root; peas|pea pod < pea pod; beet|beetroot < root
vegetable; sweet potato < roasted sweet potato; bread|loaf of bread; croissant; baguette < baguette bread;
flatbread; pretzel; bagel; pancakes|pancake; waffle; cheese|piece of cheese < cheese wedge; ham|meat < meat on bone;
chicken leg|drumstick < poultry leg; steak|beef < cut of meat; bacon; hamburger|burger|cheeseburger; french
fries|fries|chips; pizza|slice of pizza; hot dog|hotdog; sandwich; taco; burrito; tamale; egg|eggs; fried egg <
cooking; paella < shallow pan of food; pot of stew < pot of food; salad < green salad; popcorn; butter; salt|salt
shaker; tin can|canned food < canned food; bento box; rice ball|onigiri; rice|bowl of rice < cooked rice; curry <
curry rice; noodle soup|ramen < steaming bowl; spaghetti|pasta; sushi; mooncake < moon cake; dumpling; fortune
cookie; takeout box; ice cream|sundae; ice cream cone < soft ice cream; shaved ice; doughnut|donut; cookie|biscuit;
birthday cake; cake|slice of cake < shortcake; cupcake|muffin; pie; chocolate|chocolate bar < chocolate bar;
candy|sweet; lollipop; pudding|custard < custard; honey|honey pot < honey pot; baby bottle; glass of milk|milk;
cup|mug|coffee cup|coffee < hot beverage; teapot; teacup|bowl < teacup without handle; sake bottle < sake; champagne
bottle < bottle with popping cork; wine glass|glass of wine; cocktail|cocktail glass|martini < cocktail glass;
tropical drink; beer|beer mug|mug of beer < beer mug; tumbler|glass of whiskey < tumbler glass; soda cup|soft drink
< cup with straw; bubble tea; juice box < beverage box; ice cube < ice; chopsticks; plate|dinner plate < fork and
knife with plate; spoon; knife|kitchen knife < kitchen knife; jar; vase|amphora|urn < amphora; fork; globe|earth <
globe showing Europe-Africa, globe showing Americas, globe showing Asia-Australia; map|world map < world map;
compass; mountain < mountain, snow-capped mountain, mount fuji; volcano; island|desert island < desert island; brick
block|bricks < brick; rock|boulder; stadium; temple|classical building < classical building; hut; house|home|cottage
< house, house with garden; ruined house < derelict house; office building < office building; hospital; hotel;
school; department store; factory; castle < castle, Japanese castle; tower < Tokyo tower; statue|Statue of Liberty <
Statue of Liberty; church; mosque; shrine gate|torii < shinto shrine; fountain; tent < tent, camping; ferris wheel;
roller coaster; barber pole; circus tent; playground slide|slide; carousel horse; locomotive|steam train <
locomotive; train < train, metro, light rail, station; bullet train|high-speed train < bullet train, high-speed
train; tram|streetcar < tram, tram car; monorail; bus < bus, oncoming bus; trolleybus; van|minivan|minibus <
minibus; ambulance; fire engine|fire truck; police car < police car, oncoming police car; taxi|cab < taxi, oncoming
taxi; car|automobile < automobile, oncoming automobile; jeep|SUV < sport utility vehicle; pickup truck; truck|lorry
< delivery truck; semi truck < articulated lorry; tractor; racing car|race car < racing car; motorcycle|motorbike;
scooter|moped < motor scooter; wheelchair < manual wheelchair, motorized wheelchair; rickshaw|auto rickshaw < auto
rickshaw; bicycle|bike; kick scooter; skateboard; roller skate; bus stop; barrel|oil drum < oil drum; fuel pump|gas
pump < fuel pump; tire|wheel < wheel; siren|police light < police car light; traffic light < horizontal traffic
light, vertical traffic light; stop sign; barricade|roadblock < construction; anchor; lifebuoy|life ring < ring
buoy; sailboat|yacht; canoe|kayak|rowing boat; speedboat|motorboat < speedboat, motor boat; cruise ship|ocean liner
< passenger ship; ferry; ship; airplane|aeroplane|plane|jet < airplane, small airplane, airplane departure, airplane
arrival; parachute; seat; helicopter; gondola|cable car < mountain cableway, aerial tramway; satellite;
rocket|spaceship; flying saucer|UFO; hotel bell|service bell < bellhop bell; suitcase|luggage < luggage; hourglass <
hourglass done, hourglass not done; watch|wristwatch; alarm clock; stopwatch; kitchen timer < timer clock; mantel
clock < mantelpiece clock; clock|wall clock < twelve o’clock, three o’clock, six o’clock, nine o’clock, ten o’clock,
two-thirty, four o’clock; moon|full moon < full moon, full moon face, new moon face; crescent moon < crescent moon,
first quarter moon face, last quarter moon face; thermometer; sun < sun, sun with face; planet|Saturn < ringed
planet; star < star, glowing star; cloud; rain cloud < cloud with rain, sun behind rain cloud; lightning
bolt|lightning < high voltage; tornado; rainbow; umbrella < umbrella, umbrella with rain drops, closed umbrella;
beach umbrella|parasol < umbrella on ground, beach with umbrella; snowflake; snowman < snowman, snowman without
snow; comet; fire|flame|flames; water drop|droplet < droplet; wave < water wave; pumpkin|jack-o-lantern <
jack-o-lantern; Christmas tree; firecracker|dynamite < firecracker; balloon; party popper; wind chime; bow|ribbon
bow < ribbon; gift|present|gift box < wrapped gift; ticket < ticket, admission tickets; trophy|cup trophy; medal <
sports medal, military medal, 1st place medal, 2nd place medal, 3rd place medal; soccer ball|football; baseball <
baseball, softball; basketball; volleyball; American football < american football; rugby ball < rugby football;
tennis racket|tennis < tennis; frisbee < flying disc; bowling pins|bowling < bowling; cricket bat < cricket game;
hockey stick < field hockey, ice hockey; lacrosse stick < lacrosse; table tennis paddle|ping pong paddle < ping
pong; badminton racket|shuttlecock < badminton; boxing glove; karate uniform < martial arts uniform; golf flag <
flag in hole; ice skate; fishing rod < fishing pole; diving mask; running shirt|tank top < running shirt; skis|ski <
skis; sled|sledge < sled; curling stone; dartboard|target < bullseye; yo-yo; kite; water pistol|toy gun < water
pistol; billiard ball|eight ball < pool 8 ball; crystal ball; magic wand; game controller|gamepad < video game;
joystick; slot machine; die|dice < game die; puzzle piece|jigsaw piece < puzzle piece; teddy bear; piñata; disco
ball < mirror ball; matryoshka|nesting dolls < nesting dolls; chess pawn|chess piece < chess pawn; theatre masks <
performing arts; picture frame|framed picture < framed picture; palette|artist palette < artist palette; spool of
thread|thread < thread; needle|sewing needle < sewing needle; yarn|ball of yarn < yarn; knot|rope < knot;
glasses|eyeglasses|spectacles; sunglasses; goggles; lab coat; safety vest; tie|necktie < necktie; T-shirt|shirt <
t-shirt; jeans|trousers|pants < jeans; scarf; gloves|glove < gloves; coat|jacket < coat; socks|sock < socks; dress <
dress, woman’s clothes; kimono; sari; swimsuit|bathing suit < one-piece swimsuit; underpants|briefs < briefs;
shorts; bikini; hand fan < folding hand fan; purse < purse, clutch bag; handbag; shopping bag < shopping bags;
backpack|rucksack; flip-flop|flip flops < thong sandal; dress shoe|shoe < man’s shoe; sneaker|running shoe|trainers
< running shoe; hiking boot; ballet flat < flat shoe; high heel|high-heeled shoe < high-heeled shoe; sandal <
woman’s sandal; ballet shoes; boot < woman’s boot; hair comb|comb < hair pick; crown; sun hat|straw hat < woman’s
hat; top hat; graduation cap; baseball cap|cap < billed cap; army helmet < military helmet; hard hat < rescue
worker’s helmet; beads|necklace < prayer beads; lipstick; ring; diamond|gem|jewel < gem stone; loudspeaker|speaker <
speaker high volume, speaker medium volume, speaker low volume, muted speaker; horn loudspeaker < loudspeaker;
megaphone|bullhorn; post horn|french horn|horn < postal horn; bell < bell; musical note < musical note, musical
notes; microphone < microphone, studio microphone; headphones < headphone; radio; saxophone; trumpet; trombone;
accordion; guitar; piano|piano keyboard|keyboard instrument < musical keyboard; violin|fiddle; banjo; drum < drum;
conga drum < long drum; maracas|maraca < maracas; flute; harp; smartphone|mobile phone|cell phone < mobile phone;
telephone|landline phone < telephone; telephone receiver; pager; fax machine; battery < battery, low battery;
electric plug|plug < electric plug; laptop|laptop computer|notebook computer; desktop computer|computer
monitor|monitor; printer; keyboard|computer keyboard; computer mouse; trackball; floppy disk|diskette < floppy disk;
compact disc|CD|DVD < optical disk, dvd; abacus; movie camera < movie camera; film strip < film frames; film
projector; clapperboard < clapper board; television|TV; camera < camera, camera with flash; video camera|camcorder <
video camera; videocassette|VHS tape < videocassette; magnifying glass < magnifying glass tilted left, magnifying
glass tilted right; candle; light bulb|lightbulb; flashlight|torch; lantern|paper lantern < red paper lantern; oil
lamp < diya lamp; book < closed book, green book, blue book, orange book, notebook with decorative cover; open book;
books|stack of books < books; scroll; newspaper < newspaper, rolled-up newspaper; tag|price tag|label < label; coin;
money bag; banknotes|money|cash < yen banknote, dollar banknote, euro banknote, pound banknote; credit card;
receipt; treasure chest; envelope|letter < envelope, incoming envelope, envelope with arrow, e-mail; cardboard
box|package|parcel < package; mailbox|letter box < closed mailbox with raised flag, closed mailbox with lowered
flag, open mailbox with raised flag, open mailbox with lowered flag; post box|pillar box < postbox; pencil; fountain
pen < fountain pen, black nib; pen|ballpoint pen < pen; paintbrush|brush; crayon; notepad|memo < memo; briefcase;
folder|file folder < file folder, open file folder; calendar < calendar, tear-off calendar, spiral calendar;
clipboard; pushpin|thumbtack < pushpin, round pushpin; paperclip < paperclip, linked paperclips; ruler < straight
ruler, triangular ruler; scissors; filing cabinet < file cabinet; trash can|wastebasket|bin < wastebasket;
padlock|lock < locked, unlocked; key < key, old key; hammer; axe|hatchet; pickaxe < pick; dagger; sword|swords <
crossed swords; bomb; boomerang; bow and arrow; shield; saw|handsaw < carpentry saw; wrench|spanner; screwdriver;
bolt|nut and bolt|screw < nut and bolt; gear|cogwheel < gear; clamp; scale|balance scale|weighing scale < balance
scale; chain < chains, link; hook; toolbox; magnet; ladder; shovel|spade < shovel; alembic|flask < alembic; test
tube; petri dish; DNA < dna; microscope; telescope; satellite dish < satellite antenna; syringe; pill|capsule <
pill; bandage|band-aid < adhesive bandage; crutch; stethoscope; door; elevator; mirror; window; bed; sofa|couch <
couch and lamp; chair; toilet; plunger; shower < shower; bathtub|bath tub < bathtub; mousetrap < mouse trap; razor;
lotion bottle|pump bottle < lotion bottle; safety pin; broom; basket; toilet paper|roll of paper < roll of paper;
bucket|pail; soap|bar of soap < soap; toothbrush; sponge; fire extinguisher; shopping cart|trolley < shopping cart;
cigarette; coffin; gravestone|headstone < headstone; moai; sign|placard < placard; flag < chequered flag, triangular
flag, black flag, white flag; person|human < person walking, person running, person standing, person biking, person,
person: beard, person kneeling, person in lotus position; man < man, man: beard, old man, man walking, man running,
man: bald, man: white hair, man: curly hair, man standing, man in tuxedo, man dancing, man kneeling; woman|lady <
woman, old woman, woman: white hair, woman walking, woman running, woman: curly hair, woman: blond hair, woman
standing, woman dancing, woman kneeling; boy; girl; baby; child|kid; skier; surfer < person surfing, man surfing,
woman surfing; swimmer < person swimming, man swimming, woman swimming; cyclist < person biking, man biking, woman
biking; astronaut < astronaut, man astronaut, woman astronaut; firefighter < firefighter, man firefighter, woman
firefighter; police officer < police officer, man police officer, woman police officer; construction worker <
construction worker, man construction worker, woman construction worker; cook|chef < cook, man cook, woman cook;
Santa Claus; mermaid < mermaid, merman, merperson; fairy < fairy, woman fairy, man fairy; ghost; robot; alien;
skull; hand < raised hand, raised back of hand, hand with fingers splayed, waving hand; fist < raised fist, oncoming
fist; thumbs up; handshake; ear; nose; brain; leg; foot; eye; eyes; mouth|lips < mouth, biting lip; tongue; tooth;
bone; heart < anatomical heart; red heart|heart shape < red heart; lungs; footprints; arm|biceps < flexed biceps;
smiley face|smiley|emoticon < grinning face, smiling face, slightly smiling face, grinning face with big eyes,
smiling face with smiling eyes
"""

ONLY_CLIPART = """
bottle; flower; building; helmet; phone; harmonica; clarinet; tuba; cello; mandolin; lute; ukulele; bagpipes;
tambourine; cymbals|cymbal; xylophone; triangle; metronome; grand piano; electric guitar; bassoon; oboe; pliers;
drill|power drill; chisel; mallet; trowel; rake; hoe; wheelbarrow; lawn mower|lawnmower; anvil; tape
measure|measuring tape; chainsaw; hacksaw; paint roller; nail; vise; level; pitchfork; watering can; hose; toaster;
refrigerator|fridge; microwave|microwave oven; oven|stove|cooker; blender; kettle|tea kettle; frying
pan|skillet|pan; saucepan|cooking pot|pot; ladle; spatula; whisk; rolling pin; corkscrew; can opener; cutting board;
pitcher|jug; wine bottle; beer bottle; milk bottle; cup and saucer; grater; coffee maker; iron|clothes iron; washing
machine; vacuum cleaner; fan|electric fan; lamp|table lamp|desk lamp; chandelier; desk; table; bookcase|bookshelf;
wardrobe|closet; stool; armchair; rocking chair; bench; cradle|crib; dresser|chest of drawers; pillow; towel; carpet
beater; hanger|coat hanger; sewing machine; clothespin; button; zipper; thimble; stapler; calculator; typewriter;
eraser; globe stand; blackboard; easel; cassette|audio cassette; photo camera; truck; tank; bulldozer; excavator;
crane; forklift; cement mixer; dump truck; hot air balloon; airship|blimp|zeppelin; glider; biplane; submarine;
raft; tugboat; gondola boat; carriage; wagon; cart; trailer; caravan; sleigh; ostrich; pelican; stork; heron;
crow|raven; seagull|gull; hummingbird; woodpecker; sparrow; robin; toucan; vulture; falcon; hawk; pheasant; quail;
cockatoo; kiwi bird; starfish; sea horse|seahorse; walrus; sea lion; stingray; eel; trout; salmon; clam; mole;
weasel; ferret; porcupine; armadillo; anteater; hyena; cheetah; jaguar; panther; lynx; bobcat; coyote; antelope;
gazelle; reindeer|caribou; elk; yak; mule; calf; lamb; piglet; guinea pig; chameleon; iguana; salamander; newt;
toad; cobra; dragonfly; moth; wasp; hornet; centipede; tick; flea; termite; firefly; praying mantis; gecko;
cauliflower; cabbage; asparagus; celery; radish; turnip; leek; spinach; artichoke; zucchini; raspberry; blackberry;
plum; apricot; fig; pomegranate; papaya; grapefruit; almond; walnut; hazelnut; date; cranberry; pumpkin pie;
sausage; bonsai; fern; bamboo; ivy; orchid; lily; iris; daffodil; poppy; pansy; dandelion; thistle; carnation;
marigold; violet; geranium; oak tree; willow; bush|shrub; pine cone; ivy leaf; leaf|green leaf; windmill;
lighthouse; bridge; pyramid; barn; skyscraper; igloo; dam; well; water tower; silo; greenhouse; gate; fence;
stairs|staircase; chimney; column|pillar; arch; obelisk; bird house|birdhouse; doghouse|dog house; mill; hat; cowboy
hat; fedora; beret; sombrero; belt; bow tie; skirt; sweater|pullover; vest; mitten|mittens; slipper|slippers; cloak;
apron; bra; pajamas; suit; blouse; bracelet; earring|earrings; wig; moustache|mustache; wallet; pipe|tobacco pipe;
lighter; match; ashtray; golf ball; golf club; tennis ball; snowboard; surfboard; baseball bat; baseball glove;
hockey puck; dart|darts; dumbbell|barbell; trampoline; swing; seesaw; pinwheel; rocking horse; doll;
domino|dominoes; playing card; chessboard; spinning top; rubber duck; helm; ship wheel; sail; oar|paddle; buoy; fish
hook; fishing net; tractor tire; steering wheel; engine; piston; propeller; spark plug; traffic cone; road sign;
parking meter; mailbox post; street lamp|streetlight; fire hydrant|hydrant; phone booth; test flask|Erlenmeyer
flask; beaker; Bunsen burner; first aid kit; tweezers; hair dryer|hairdryer; hairbrush; perfume; nail clipper;
toothpaste; bottle opener; hourglass sand; weather vane; sundial; cannon; gun|pistol|revolver; rifle|shotgun; spear;
arrow; mace; helmet of a knight; gavel; computer; tablet; router; server; webcam; USB stick|flash drive; circuit
board; microchip; joystick stick; antenna; robot arm; remote control|remote; record player|gramophone|phonograph;
vinyl record; tripod; film reel; binoculars; hand saw; skeleton; ghost; witch; clown; knight; king; queen; pirate;
soldier; angel; wizard; dinosaur; scarecrow; cowboy; mummy; vampire; basin|sink|washbasin; faucet|tap; bathroom
scale; mop; dustpan; clothes basket; ironing board; trash bag; tissue box; flower pot; fireplace; radiator; light
switch; electric socket; padlock key; picnic table; deck chair; hammock; beer can|soda can; glass; glass jar;
barrel; crate; sack; wine barrel; picnic basket; lunch box; birdcage; aquarium|fish tank; fish bowl; dog bone;
horseshoe; saddle; beehive; honeycomb; snow globe; candy cane; gingerbread man|gingerbread; wreath; Easter egg
"""

GROUND = {
    "grass": ["lawn", "meadow"],
    "sky": ["blue sky"],
    "brick wall": ["bricks wall"],
    "sand": ["beach sand"],
    "water": ["sea", "lake", "ocean"],
    "wood": ["wooden board", "wooden table"],
    "stone": ["stone wall"],
    "gravel": ["pebbles"],
    "concrete": ["cement"],
    "snow": [],
    "leaves": ["foliage"],
    "fabric": ["cloth", "textile"],
    "metal": ["metal sheet", "steel plate"],
    "dirt": ["soil", "earth ground"],
    "carpet": ["rug"],
    "tiles": ["tiled floor", "tile"],
    "clouds": ["cloudy sky"],
    "road": ["asphalt"],
    "wall": ["painted wall"],
    "paper": ["sheet of paper"],
    "marble": [],
}
BACKGROUND = "background"

BROADER_TABLE = """
person: man, woman, boy, girl, baby, child, skier, surfer, swimmer, cyclist, astronaut, firefighter, cook, soldier,
clown, cowboy;
man: boy, firefighter, cook, astronaut, cowboy, king, soldier, knight, pirate, wizard;
woman: girl, queen, witch;
child: boy, girl, baby;
bird: chicken, rooster, chick, penguin, dove, eagle, duck, swan, owl, flamingo, peacock, parrot, goose, turkey,
ostrich, pelican, crow, sparrow, robin, hawk, falcon;
fish: blowfish, shark, trout, salmon;
dog: poodle;
flower: rose, tulip, daisy, sunflower, hibiscus, lotus;
tree: oak tree, palm tree, pine tree, bare tree, willow, bonsai, Christmas tree;
bear: polar bear, panda, koala, teddy bear;
car: taxi, police car, jeep, racing car, van;
truck: semi truck, pickup truck, dump truck, fire engine;
train: locomotive, bullet train, tram, monorail;
ship: cruise ship, ferry, sailboat, tugboat;
clock: alarm clock, mantel clock, watch, kitchen timer;
chair: armchair, rocking chair, seat;
building: house, hospital, hotel, school, factory, church, castle;
house: hut, ruined house;
bottle: wine bottle, beer bottle, milk bottle;
book: open book, books;
hat: top hat, cowboy hat, sun hat, fedora;
helmet: army helmet, hard hat;
computer: laptop, desktop computer, tablet;
phone: smartphone, telephone;
guitar: electric guitar, ukulele;
piano: grand piano;
drum: conga drum;
dinosaur: T-Rex, brontosaurus;
cat: lion, tiger;
horse: donkey, mule;
leaf: maple leaf, ivy leaf;
cake: birthday cake, cupcake;
camera: photo camera, video camera, movie camera;
monkey: gorilla, orangutan;
frog: toad;
mountain: volcano;
cloud: rain cloud;
moon: crescent moon;
heart: red heart;
lion: cat;
sheep: ram, lamb;
deer: moose, reindeer, elk, antelope;
cow: ox, calf, bison;
pig: boar, piglet;
mouse: rat;
eye: eyes;
ice cream: ice cream cone;
saw: hand saw, hacksaw, chainsaw;
tent: circus tent;
key: padlock key;
wagon: cart, carriage;
lamp: oil lamp, lantern;
cup: teacup, cup and saucer;
sword: dagger;
gun: rifle, water pistol;
skull: skeleton;
bell: hotel bell;
shovel: trowel;
chick: chicken;
loudspeaker: horn loudspeaker;
"""

TEMPLATES = (
    "{}",
    "a {}",
    "the {}",
    "a photo of a {}.",
    "a photo of the {}.",
    "a picture of a {}.",
    "an image of a {}.",
    "a drawing of a {}.",
    "a rendering of a {}.",
    "a close-up photo of a {}.",
    "a bright photo of a {}.",
    "a dark photo of a {}.",
    "a blurry photo of a {}.",
    "a cropped photo of a {}.",
    "a good photo of a {}.",
    "a photo of one {}.",
    "a photo of my {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
    "there is a {} in the scene.",
    "the {} in the scene",
    "a {} in the scene.",
    "this is a {}.",
    "itap of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a toy {}.",
)

COMMON = """
thing object animal fruit vegetable tool vehicle instrument furniture food drink plant flower toy clothes shoe body
machine device kitchen household insect bird mammal reptile part surface material background foreground scene
texture pattern colour color red orange yellow green blue purple pink brown black white grey gray dark bright light
small large big little tiny huge old new young broken damaged cracked scratched dented bent rusty dirty clean
flawless perfect intact normal anomalous defect defective scratch crack dent hole stain spot contamination missing
piece without with flaw damage good bad wooden metal plastic glass leather paper stone ceramic rubber wet dry round
square long short tall wide thin thick soft hard sharp open closed full empty cable capsule carpet grid hazelnut
leather metal nut pill screw tile toothbrush transistor wood zipper candle cashew chewing gum macaroni pipe fryum
circuit left right top bottom front back side middle corner edge inside outside under over near behind photo picture
image drawing painting sketch one two three four five many several some crowd group pile pair floor ceiling ground
roof street city town village garden park forest field beach river lake sea hill valley desert jungle cave coast
harbor harbour airport station farm kitchen bathroom bedroom living room office shop market restaurant day night
morning evening summer winter spring autumn rain fog storm sunny cloudy mother father child adult family friend
player driver worker head face hair neck shoulder chest back arm elbow finger knee toe skin tail horn fur beak hoof
claw fin shell leaf branch root trunk petal stem seed sofa couch shelf curtain blanket cushion drawer cupboard
counter stove dish bowl plate glass tray lid handle wheel door window seat engine wing sail rope helmet glove coat
shirt trousers skirt sock hat belt bag purse wallet phone screen cable charger lamp bulb switch
""".split()


def entries(table: str) -> list[tuple[str, list[str], list[str]]]:
    """Rows (name, synonyms, CLDR labels) of a table in the notation described at the top."""
    rows = []
    for entry in filter(None, (" ".join(part.split()) for part in table.split(";"))):
        words, _, labels = entry.partition("<")
        name, *synonyms = (word.strip() for word in words.split("|"))
        rows.append((name, synonyms, [label.strip() for label in labels.split(",")] if labels else [name]))
    return rows


def broader(table: str) -> dict[str, list[str]]:
    """Wide name -> narrow names, of ``wide: narrow, narrow; wide: ...``."""
    rows = (part.split(":") for part in " ".join(table.split()).rstrip(";").split(";"))
    return {wide.strip(): [word.strip() for word in narrow.split(",")] for wide, narrow in rows}


BROADER = broader(BROADER_TABLE)


def vocabulary() -> dict[str, list[str]]:
    """Every name of the two tables and its synonyms, the first mention deciding."""
    names: dict[str, list[str]] = {}
    for name, synonyms, _ in entries(TABLE) + entries(ONLY_CLIPART):
        names.setdefault(name, synonyms)
    return names


def overlaps() -> dict[str, set[str]]:
    """For a name, the names that must not count as wrong where it is right, both ways (bird: duck, eagle, ...)."""
    pairs: dict[str, set[str]] = {}
    for wide, narrow in BROADER.items():
        for word in narrow:
            pairs.setdefault(wide, set()).add(word)
            pairs.setdefault(word, set()).add(wide)
    return pairs
