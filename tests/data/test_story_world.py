"""Stories of `story_world`: the same bytes everywhere, splits apart, a consistent world, right labels."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.data import story_world
from course_lib.data.story_world import Story, WorldConfig
from course_lib.data.story_world.events import KINDS
from course_lib.data.story_world.state import Entity
from course_lib.data.story_world.telling import Told

SAMPLE = list(story_world.stories(seed=100, count=400))
SEEDS = st.integers(min_value=0, max_value=2**63)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# The same bytes everywhere


def test_text_of_a_seed_is_pinned() -> None:
    text = "\n".join(story.text for story in story_world.stories(seed=0, count=50))
    assert _digest(text) == "3ee88bd447a008b3fc8e877251106dee60e2837e7c01555eab064302653c2a71"


def test_labels_of_a_seed_are_pinned() -> None:
    labels = "\n".join(story.to_json() for story in story_world.stories(seed=0, count=12))
    assert _digest(labels) == "d3f3734b7b46f62ff9f2b0e33c310278f49a3dc4c33d35d88d619723a97a3e31"


def test_stories_do_not_depend_on_the_hash_seed_and_need_only_the_standard_library() -> None:
    program = (
        "import sys; from course_lib.data import story_world as w;"
        "print(''.join(s.to_json() for s in w.stories(seed=4, count=5)));"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_a_story_does_not_depend_on_how_many_are_asked_for() -> None:
    assert [s.text for s in story_world.stories(seed=8, count=3)] == [
        s.text for s in story_world.stories(seed=8, count=6)
    ][:3]


def test_corpus_has_at_least_the_words_asked_for_and_a_blank_line_between_stories() -> None:
    text = story_world.corpus(500, seed=2)
    stories = text.split("\n\n")
    told = list(story_world.stories(seed=2, count=len(stories)))
    assert stories == [story.text for story in told]
    assert sum(len(story.words) for story in told) >= 500 > sum(len(story.words) for story in told[:-1])


# Splits


@pytest.mark.parametrize(
    "config", [WorldConfig(), WorldConfig(min_sentences=2, max_sentences=3)], ids=["full", "short"]
)
def test_no_two_splits_share_a_story_skeleton(config: WorldConfig) -> None:
    skeletons = {
        split: {story.skeleton for story in story_world.stories(1, split, config, count)}
        for split, count in (("train", 1500), ("valid", 250), ("test", 250))
    }
    # Short stories do come back: their splits are apart because they are kept apart, not because all differ.
    assert config.max_sentences > 3 or len(skeletons["train"]) < 1400
    assert not skeletons["train"] & skeletons["valid"]
    assert not skeletons["train"] & skeletons["test"]
    assert not skeletons["valid"] & skeletons["test"]


def test_no_two_splits_share_a_sentence_skeleton() -> None:
    found = {
        split: list(story_world.sentence_pairs(split, "french", seed=1, count=count))
        for split, count in (("train", 3000), ("valid", 300), ("test", 300))
    }
    skeletons = {split: {pair.skeleton for pair in pairs} for split, pairs in found.items()}
    assert len(skeletons["train"]) < 3000
    assert not skeletons["train"] & (skeletons["valid"] | skeletons["test"])
    assert not skeletons["valid"] & skeletons["test"]
    texts = [pair.english for pair in found["train"]]
    assert len(texts) == len(set(texts))


def test_skeletons_leave_out_names() -> None:
    names = {word.lemma for word in story_world.vocabulary() if word.part_of_speech == "name"}
    for story in SAMPLE:
        for line in (*story.skeleton, *(part for s in story.sentences for part in s.skeleton)):
            assert not names & set(re.split(r"[ :]", line))


def test_context_free_pairs_have_no_it_without_its_noun() -> None:
    for pair in story_world.sentence_pairs("train", "french", seed=3, count=400):
        words = [word.lower() for word in pair.english]
        if "it" in words and words[words.index("it") + 1] not in ("rained", "snowed"):
            assert "because" in words[: words.index("it")]


# A consistent world, by a second account of what the events mean


class _Ledger:
    """Who is where and who has what, kept by rules written for this test and not by the library's."""

    def __init__(self) -> None:
        self.place: dict[Entity, Entity] = {}
        self.holder: dict[Entity, Entity | None] = {}
        self.gone: set[Entity] = set()

    def read(self, told: Told) -> None:
        kind, value = told.kind.name, {k: v for k, v in told.values.items() if isinstance(v, Entity)}
        actor, thing, other, place = value.get("A"), value.get("T"), value.get("B"), value.get("P")
        assert thing not in self.gone
        if kind in ("give", "lend", "sell", "throw", "give_back", "show", "share"):
            assert actor and other and thing
            assert self.holder[thing] is actor
            assert self.place[actor] is self.place[other]
            if kind == "share":
                self.gone.add(thing)
            self.holder[thing] = actor if kind == "show" else other
        elif kind in ("steal", "take", "borrow"):
            assert actor and other and thing
            assert self.holder[thing] is other
            assert self.place[actor] is self.place[other]
            self.holder[thing] = actor
        elif kind in ("find", "buy", "have", "pick_fruit", "cook", "bake", "draw", "write", "buy_phone"):
            assert thing and actor
            assert thing not in self.holder
            self.holder[thing] = actor
        elif kind == "buy_for":
            assert thing and other
            self.holder[thing] = other
        elif kind in ("pick_up", "find_again"):
            assert thing and actor
            assert self.holder.get(thing) is None
            assert kind != "pick_up" or self.place[thing] is self.place[actor]
            self.holder[thing] = actor
            self.place.pop(thing, None)
        elif kind in (
            "lose",
            "leave",
            "eat",
            "break",
            "repair",
            "fill_basket",
            "wash",
            "read",
            "peel",
            "now_has",
            "bring",
        ):
            assert thing and actor
            assert self.holder[thing] is actor
            if kind in ("lose", "leave"):
                self.holder[thing] = None
            if kind in ("eat", "fill_basket"):
                self.gone.add(thing)
        if kind in ("leave", "lie_there"):
            assert thing and place
            self.place[thing] = place
            self.holder[thing] = None
        if kind in ("animal_eat",):
            assert thing and actor
            assert self.place[thing] is self.place[actor]
            self.gone.add(thing)
        self._move(kind, actor, other, value.get("N"), place)

    def _move(
        self,
        kind: str,
        actor: Entity | None,
        other: Entity | None,
        animal: Entity | None,
        place: Entity | None,
    ) -> None:
        if kind in ("meet",):
            assert other and place
            self.place[other] = place
        elif kind in ("see_animal", "animal_there"):
            assert animal and place
            self.place[animal] = place
        elif kind in ("go_together", "animal_follow", "they_go", "they_run"):
            assert actor and other and place
            assert self.place[actor] is self.place[other]
            self.place[actor] = self.place[other] = place
        elif kind in ("find", "buy", "look_for", "sleep", "play_together") and actor and place:
            assert self.place[actor] is place
        elif kind in _MOVES:
            assert actor and place
            assert kind not in ("go", "run", "return", "ride", "bring") or self.place[actor] is not place
            self.place[actor] = place


_MOVES = (
    *("be", "visit", "wait", "come", "be_too", "run_up", "animal_come", "go", "run", "return", "bring"),
    *("animal_run", "ride", "sit_on_bank", "fish_from_bank", "tie_boat", "pay_in", "open_account"),
)


def _ledger(story: Story) -> _Ledger:
    ledger = _Ledger()
    for told in story.told:
        ledger.read(told)
    return ledger


def _called(entity: Entity) -> str:
    noun = entity.noun.plural if entity.plural else entity.noun.lemma
    return noun if entity.noun.is_name else f"the {noun}"


@settings(max_examples=25, deadline=None)
@given(
    seed=SEEDS,
    kinds=st.sets(st.sampled_from([kind.name for kind in KINDS])),
    adjectives=st.sets(st.sampled_from(["red", "old", "happy", "sad", "tired", "wide", "small"])),
    places=st.sampled_from([("kitchen",), ("kitchen", "garden"), ("market", "street", "mill"), None]),
)
def test_any_part_of_the_world_can_tell_stories(
    seed: int, kinds: set[str], adjectives: set[str], places: tuple[str, ...] | None
) -> None:
    config = WorldConfig(
        kinds=("be", *sorted(kinds - {"be"})), adjectives=tuple(sorted(adjectives)), places=places
    )
    for story in story_world.stories(seed, None, config, 3):
        _ledger(story)
        assert 1 <= len(story.sentences) <= config.max_sentences


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_nobody_gives_what_they_do_not_have(seed: int) -> None:
    _ledger(story_world.story(seed))


def test_answers_about_places_and_holders_follow_from_the_events() -> None:
    asked = 0
    for story in SAMPLE:
        ledger = _ledger(story)
        where = {f"Where is {_called(e)}?": p for e, p in ledger.place.items()}
        held = {thing: who for thing, who in ledger.holder.items() if who and thing not in ledger.gone}
        where |= {f"Where is {_called(t)}?": ledger.place[who] for t, who in held.items()}
        where |= {f"Where are {_called(t)}?": ledger.place[who] for t, who in held.items() if t.plural}
        has = {f"Who has {_called(thing)}?": who for thing, who in held.items()}
        for question in story.questions:
            if question.text in where and question.kind in ("where", "where_thing"):
                assert question.answer == _called(where[question.text]), story.text
                asked += 1
            if question.kind == "who_has":
                assert question.answer.split()[-1] == _called(has[question.text]).split()[-1], story.text
                asked += 1
    assert asked > 1000


# Labels


def test_every_answer_is_its_span() -> None:
    kinds = set()
    for story in SAMPLE:
        for question in story.questions:
            kinds.add(question.kind)
            assert " ".join(story.words[question.start : question.end]) == question.answer
            start = story.sentences[max(question.support)].start
            assert question.end <= start + len(story.sentences[max(question.support)].words)
    assert {"where", "where_before", "who_has", "where_thing", "feeling", "find", "give", "why"} <= kinds


def test_pronouns_agree_with_their_antecedents() -> None:
    words = {word.lemma: word for word in story_world.vocabulary() if word.part_of_speech in ("noun", "name")}
    words |= {form: word for word in words.values() for form in word.forms}
    seen = set()
    for story in SAMPLE:
        for link in story.coreference:
            pronoun, noun = link.text.lower(), words[link.antecedent.split()[-1]]
            seen.add(pronoun)
            assert (link.antecedent_start, link.antecedent_end) <= (link.start, link.end)
            if pronoun in ("he", "him", "his"):
                assert noun.gender == "m"
            elif pronoun in ("she", "her"):
                assert noun.gender == "f"
            elif pronoun == "it":
                assert noun.gender == "n"
            elif pronoun in ("they", "them"):
                plural = link.antecedent.split()[-1] == noun.forms[1]
                assert plural or " and " in f" {link.antecedent} "
    assert {"he", "she", "it", "him", "her", "his", "them", "there"} <= seen


def test_a_personal_pronoun_has_one_possible_reader() -> None:
    for story in SAMPLE:
        for previous, sentence in pairwise(story.told):
            for mention in sentence.mentions:
                if mention.form != "pronoun" or mention.entities[0].type != "person":
                    continue
                if len(mention.entities) > 1:
                    continue
                # A pronoun means somebody of its own sentence if it can, else somebody of the one before.
                here = [e for m in sentence.mentions if m.start < mention.start for e in m.entities]
                before = [e for m in previous.mentions for e in m.entities]
                same = [
                    {e for e in group if e.pronoun == mention.entities[0].pronoun} for group in (here, before)
                ]
                assert (same[0] or same[1]) == {mention.entities[0]}, story.text


def test_what_it_means_follows_from_the_adjective() -> None:
    animate = {"tired", "sleepy", "ill", "weak", "scared"}
    inanimate = {"dangerous", "slippery", "wide", "busy", "noisy", "deep", "narrow"}
    counts = {"animal": 0, "scenery": 0}
    for story in story_world.stories(seed=12, count=800):
        for told in story.told:
            if told.kind.name.startswith("not_cross_animal"):
                meant = told.mentions[-1].entities[0].type
                adjective = told.words[-2]
                assert told.mentions[-1].form == "pronoun"
                assert adjective in (animate if meant == "animal" else inanimate)
                counts[meant] += 1
    assert min(counts.values()) > 10


def test_entities_are_named_by_their_words() -> None:
    types = set()
    for story in SAMPLE:
        for mention in story.entities:
            types.add(mention.type)
            assert " ".join(story.words[mention.start : mention.end]) == mention.text
        spans = [(mention.start, mention.end) for mention in story.entities]
        assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert types == {"PERSON", "ANIMAL", "THING", "PLACE", "ORGANISATION"}


def test_sentiment_follows_feelings() -> None:
    found = {(s.event, s.sentiment) for story in SAMPLE for s in story.sentences}
    assert {("give", "positive"), ("lose", "negative"), ("go", "neutral"), ("steal", "negative")} <= found
    assert {story.sentiment for story in SAMPLE} == {"positive", "negative", "neutral"}
    glad = {"happy", "glad", "proud", "calm", "cheerful", "excited"}
    for story in SAMPLE:
        for sentence in story.sentences:
            if sentence.event == "feel_glad":
                assert sentence.sentiment == "positive"
                assert sentence.words[-2] in glad


def test_next_sentence_pairs_are_half_true_and_true_to_the_story() -> None:
    for story in SAMPLE[:100]:
        texts = [sentence.text for sentence in story.sentences]
        following = set(pairwise(texts))
        pairs = story.next_sentence_pairs
        assert sum(pair.is_next for pair in pairs) * 2 == len(pairs)
        for pair in pairs:
            assert ((pair.first, pair.second) in following) or not pair.is_next
            position = texts.index(pair.first)
            assert pair.is_next or texts[position + 1 : position + 2] != [pair.second]


def test_summary_names_everyone_in_full() -> None:
    for story in SAMPLE:
        first = story.summary.split(".")[0].split()
        assert story.summary.endswith(".")
        assert first[0] not in ("He", "She", "They", "Then", "Soon")
        assert len(story.summary.split()) < len(story.words)


def test_instructions_carry_the_gold_answers() -> None:
    story = SAMPLE[0]
    answers = {(i.instruction, i.answer) for i in story.instructions}
    assert {(q.text, q.answer) for q in story.questions} <= answers
    assert ("Is this story positive, negative or neutral?", story.sentiment) in answers
    assert ("Summarize this story.", story.summary) in answers


def test_both_banks_and_both_apples_are_common_and_their_company_tells_them_apart() -> None:
    company: dict[str, set[str]] = {}
    counts: dict[str, int] = {}
    for story in story_world.stories(seed=20, count=1200):
        for sense in story.senses:
            assert story.words[sense.index].lower().removesuffix("s") == sense.word
            counts[sense.sense] = counts.get(sense.sense, 0) + 1
            company.setdefault(sense.sense, set()).update(story.words)
    assert set(counts) == {"river_bank", "money_bank", "apple_fruit", "apple_company"}
    assert min(counts.values()) > 100
    assert {"river", "fish", "boat", "water"} <= company["river_bank"]
    assert {"money", "coins", "account", "clerk"} <= company["money_bank"]


def test_json_holds_every_label() -> None:
    record = json.loads(SAMPLE[0].to_json())
    assert record["text"] == SAMPLE[0].text
    expected = {"entities", "coreference", "questions", "summary", "sentiment", "instructions", "choices"}
    assert expected | {"next_sentence_pairs", "senses", "skeleton"} <= set(record)
    assert set(record["sentences"][0]["translations"]) == {"french", "chinese"}


# The vocabulary, the view, and bad input


def test_vocabulary_has_over_three_hundred_lemmas_in_three_languages() -> None:
    words = story_world.vocabulary()
    assert len({word.lemma for word in words if word.part_of_speech != "name"}) >= 340
    assert {word.part_of_speech for word in words} == {"noun", "name", "adjective", "verb", "numeral"}
    for word in words:
        assert word.lemma and word.french and word.forms
        assert re.fullmatch(r"[一-鿿 ]+", word.chinese), word
        assert word.french_gender in ("m", "f") or word.part_of_speech not in ("noun", "name")


def test_every_kind_of_event_happens() -> None:
    seen = {told.kind.name for story in story_world.stories(seed=40, count=4000) for told in story.told}
    assert len(KINDS) >= 40
    assert {kind.name for kind in KINDS} - seen == set()


class _Balance(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_view_is_plain_balanced_html_that_asks_for_nothing() -> None:
    for story in SAMPLE[:40]:
        html = story._repr_html_()
        parser = _Balance()
        parser.feed(html)
        assert not parser.open
        assert not parser.tags & {"script", "img", "link", "iframe"}
        assert "http" not in html and "url(" not in html
        assert all(mention.type in html for mention in story.entities)


def test_view_shows_the_labels_asked_for() -> None:
    only = story_world.show(SAMPLE[0], ["questions"])
    assert "PERSON" not in only._repr_html_()
    assert SAMPLE[0].questions[0].text in repr(only)
    with pytest.raises(ValueError, match="no such labels: mood"):
        story_world.show(SAMPLE[0], ["mood"])


def test_bad_input_is_named_with_what_would_be_right() -> None:
    with pytest.raises(ValueError, match="train, valid, test"):
        story_world.story(0, split="dev")
    with pytest.raises(ValueError, match="french, chinese"):
        SAMPLE[0].translations("german")
    with pytest.raises(ValueError, match="dragon"):
        WorldConfig(animals=("dragon",))
    with pytest.raises(ValueError, match="1 <= min_sentences"):
        WorldConfig(min_sentences=5, max_sentences=2)
    with pytest.raises(ValueError, match="lacks a person"):
        WorldConfig(people=())
    with pytest.raises(ValueError, match="lacks a kind of event to begin with"):
        WorldConfig(kinds=("go", "come"))
    with pytest.raises(ValueError, match="words=0"):
        story_world.corpus(0)
    with pytest.raises(ValueError, match="count=-1"):
        next(story_world.stories(count=-1))
