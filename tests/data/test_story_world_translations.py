"""French and Chinese of `story_world`. Oracles: translations written by hand, and rules of grammar."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from course_lib.data import story_world
from course_lib.data.story_world.state import Entity
from course_lib.data.story_world.story import Sentence

SENTENCES = [s for story in story_world.stories(seed=200, count=900) for s in story.sentences]
VOWEL = re.compile(r"[aeiouyéèêàâîôûœ]|homme|herbe|horloge|hôpital|hôtel", re.IGNORECASE)

BY_HAND = [
    (
        "Eva was in the kitchen. Tom was there too. Tom had a delicious orange. Tom gave it to Eva. "
        "She peeled it.",
        "Eva était dans la cuisine. Tom était aussi là. Tom avait une orange délicieuse. Tom l'a "
        "donnée à Eva. Elle l'a épluchée.",
        "伊娃在厨房里。汤姆也在那里。汤姆有一个美味的橙子。汤姆把它给了伊娃。她给它剥了皮。",
    ),
    (
        "Lucy went to the park. A dog came to the park. The dog did not cross the street because it "
        "was too tired. Lucy stroked it. It ran to the market.",
        "Lucy est allée dans le parc. Un chien est venu dans le parc. Le chien n'a pas traversé la "
        "rue parce qu'il était trop fatigué. Lucy l'a caressé. Il a couru jusqu'au marché.",
        "露西去了公园。一只狗来到了公园。狗没有过街，因为它太累了。露西抚摸了它。它跑到了市场。",
    ),
    (
        "Lucy went to the park. A dog came to the park. The dog did not cross the street because it "
        "was too wide. It was ill.",
        "Lucy est allée dans le parc. Un chien est venu dans le parc. Le chien n'a pas traversé la "
        "rue parce qu'elle était trop large. Il était malade.",
        "露西去了公园。一只狗来到了公园。狗没有过街，因为它太宽了。它很不舒服。",
    ),
    (
        "Anna was on the bridge. Nora was there too. Anna and Nora danced. They were happy. Anna went"
        " to the island. Nora found two beautiful feathers on the bridge.",
        "Anna était sur le pont. Nora était aussi là. Anna et Nora ont dansé. Elles étaient "
        "heureuses. Anna est allée sur l'île. Nora a trouvé deux belles plumes sur le pont.",
        "安娜在桥上。诺拉也在那里。安娜和诺拉跳了舞。她们很高兴。安娜去了小岛上。诺拉在桥上找到了"
        "两根漂亮的羽毛。",
    ),
    (
        "One day, Leo was in the street. Leo opened an account at the bank. The bank lent him some "
        "money. Rosa was at the bank too.",
        "Un jour, Leo était dans la rue. Leo a ouvert un compte à la banque. La banque lui a prêté de"
        " l'argent. Rosa était aussi à la banque.",
        "有一天，利奥在街道上。利奥在银行里开了一个账户。银行借给了他一些钱。罗莎也在银行里。",
    ),
    (
        "Sofia was in the garden. She lost her key. She looked for it in the garden. She did not find"
        " it. “I am sad,” said Sofia.",
        "Sofia était dans le jardin. Elle a perdu sa clé. Elle l'a cherchée dans le jardin. Elle ne "
        "l'a pas trouvée. « Je suis triste », a dit Sofia.",
        "索菲亚在花园里。她弄丢了她的钥匙。她在花园里找了它。她没有找到它。“我很难过，”索菲亚说。",
    ),
    (
        "Paul was in the castle. An elderly queen was there too. She had some white feathers. Paul "
        "stole them from her. The queen was angry.",
        "Paul était dans le château. Une reine âgée était aussi là. Elle avait des plumes blanches. "
        "Paul les lui a volées. La reine était fâchée.",
        "保罗在城堡里。一位年老的王后也在那里。她有一些白色的羽毛。保罗从她那里偷走了它们。王后很生气。",
    ),
    (
        "Mia went to the market. She bought an Apple phone there. She charged the Apple phone. Oscar "
        "came to the market. Then Mia laughed at him.",
        "Mia est allée au marché. Elle a acheté un téléphone Apple là-bas. Elle a rechargé le "
        "téléphone Apple. Oscar est venu au marché. Puis Mia s'est moquée de lui.",
        "米娅去了市场。她在那里买了一部苹果手机。她给苹果手机充了电。奥斯卡来到了市场。然后米娅嘲笑了他。",
    ),
]


@pytest.mark.parametrize(("english", "french", "chinese"), BY_HAND, ids=[str(i) for i in range(len(BY_HAND))])
def test_translations_are_those_written_by_hand(english: str, french: str, chinese: str) -> None:
    story = story_world.read_story(english)
    assert story.text == english
    assert " ".join(t.text for t in story.translations("french")) == french
    assert "".join(t.text for t in story.translations("chinese")) == chinese


def test_a_story_read_back_is_the_story_that_was_told() -> None:
    for story in story_world.stories(seed=21, split=None, count=12):
        again = story_world.read_story(story.text)
        assert again.words == story.words
        assert again.log_probability == pytest.approx(story.log_probability, abs=1e-9)
        assert again.questions == story.questions
        assert again.skeleton == story.skeleton


def test_a_text_that_cannot_be_is_refused_at_the_sentence_that_cannot() -> None:
    with pytest.raises(ValueError, match=r"Tom gave the ball to Eva \."):
        story_world.read_story("Eva was in the kitchen. Tom was there too. Tom gave the ball to Eva.")
    with pytest.raises(ValueError, match="ends after 1 sentences"):
        story_world.read_story("Eva was in the kitchen.")
    with pytest.raises(ValueError, match="no words"):
        story_world.read_story(" ")


def test_every_word_of_an_alignment_exists_and_most_words_are_aligned() -> None:
    for language in ("french", "chinese"):
        covered = total = 0
        for sentence in SENTENCES[:3000]:
            translation = sentence.translation(language)
            for source, target in translation.alignment:
                assert 0 <= source < len(sentence.words)
                assert 0 <= target < len(translation.words)
            covered += len({source for source, _ in translation.alignment})
            total += len(sentence.words)
            assert (len(sentence.words) - 1, len(translation.words) - 1) in translation.alignment
        assert covered / total > (0.9 if language == "french" else 0.75)


def test_aligned_nouns_are_translations_of_each_other() -> None:
    nouns = {w.lemma: w for w in story_world.vocabulary() if w.part_of_speech in ("noun", "name")}
    checked = 0
    for sentence in SENTENCES[:2000]:
        chinese = sentence.translation("chinese")
        for source, target in chinese.alignment:
            noun = nouns.get(sentence.words[source])
            if noun is None or noun.lemma in (
                "bank",
                "phone",
                "water",
                "river",
                "street",
                "bridge",
                "cash",
                "money",
            ):
                continue
            if sentence.words[source - 1 : source] != ["Apple"] and noun.lemma not in ("saw", "rose"):
                assert chinese.words[target] in noun.chinese.split(), sentence.text
                checked += 1
    assert checked > 1000


def test_french_elides_and_contracts_wherever_it_must() -> None:
    for sentence in SENTENCES:
        words = [word.lower() for word in sentence.translation("french").words]
        for word, following in pairwise(words):
            if word in ("le", "la", "de", "ne", "que", "je", "jusque"):
                assert not VOWEL.match(following), sentence.translation("french").text
            if word.endswith("'"):
                assert VOWEL.match(following), sentence.translation("french").text
            assert (word, following) not in {("à", "le"), ("à", "les"), ("de", "le"), ("de", "les")}


def test_french_articles_agree_with_their_nouns() -> None:
    genders = {
        w.french: w.french_gender
        for w in story_world.vocabulary()
        if w.part_of_speech == "noun" and " " not in w.french
    }
    expected = {"un": "m", "le": "m", "du": "m", "au": "m", "une": "f", "la": "f"}
    checked = 0
    for sentence in SENTENCES:
        words = [word.lower() for word in sentence.translation("french").words]
        for article, noun in pairwise(words):
            if article in expected and noun in genders:
                assert expected[article] == genders[noun], sentence.translation("french").text
                checked += 1
    assert checked > 2000


def _of(slot: str, sentence: Sentence) -> Entity:
    return sentence.told.entity(slot)


def test_french_participles_with_etre_agree_with_the_subject() -> None:
    endings = {("m", False): "", ("f", False): "e", ("m", True): "s", ("f", True): "es"}
    seen = set()
    for sentence in SENTENCES:
        words = sentence.translation("french").words
        for stem in ("allé", "venu", "revenu", "disputé", "moqué"):
            found = [w for w in words if w in {stem + ending for ending in endings.values()}]
            if found:
                together = sentence.event in ("go_together", "they_go")
                people = [_of(slot, sentence) for slot in ("AB" if together else "A")]
                feminine = all(person.noun.french_gender == "f" for person in people)
                ending = endings[("f" if feminine else "m", together)]
                seen.add(ending)
                assert found == [stem + ending], sentence.text
    assert seen == {"", "e", "s", "es"}


def test_french_participles_agree_with_an_object_pronoun_before_them() -> None:
    stems = {"give": "donné", "lend": "prêté", "steal": "volé", "borrow": "emprunté", "show": "montré"}
    seen = set()
    for sentence in SENTENCES:
        if sentence.event in stems:
            thing, form = _of("T", sentence), sentence.told.forms["T"]
            feminine = "e" if thing.noun.french_gender == "f" else ""
            ending = feminine + ("s" if thing.plural else "") if form == "pronoun" else ""
            seen.add(ending)
            assert stems[sentence.event] + ending in sentence.translation("french").words, sentence.text
    assert {"", "e", "s"} <= seen


def test_chinese_has_measure_words_and_no_articles() -> None:
    units = set()
    for sentence in SENTENCES:
        for slot, form in sentence.told.forms.items():
            if form != "indefinite":
                continue
            entity = sentence.told.entity(slot)
            if entity.count == 1:
                units.add(entity.noun.classifier)
                assert "一" + entity.noun.classifier in sentence.translation("chinese").words
    assert len(units) > 15
