from __future__ import annotations

import pytest

from latentbridge.data.drawings.concepts import (
    Concept,
    character_concepts,
    cluster_of,
    hash_percentile,
    held_out_clusters,
    normalize_codepoint,
    normalize_name,
    read_concepts,
)


@pytest.mark.parametrize(
    ("label", "cluster"),
    [
        ("cat face", "cat"),
        ("black cat", "cat"),
        ("oncoming taxi", "car"),
        ("sun behind cloud", "sun"),
        ("closed mailbox with raised flag", "mailbox"),
        ("hourglass not done", "hourglass"),
        ("cherries", "cherry"),
        ("sunglasses", "glass"),
        ("octopus", "octopus"),
        ("face with tears of joy", "face"),
        ("A button (blood type)", "button"),
        ("keycap: 3", "keycap"),
    ],
)
def test_a_cluster_is_the_head_noun(label, cluster):
    assert cluster_of(label) == cluster


def test_names_and_codepoints_are_normalized():
    assert normalize_name("woman’s boot") == normalize_name("womans-boot") == "womansboot"
    assert normalize_name("piñata") == "pinata"
    assert normalize_codepoint("1f441-fe0f-200d-1f5e8-fe0f") == "1F441-200D-1F5E8"


def test_flags_are_left_out(toy_emojibase):
    concepts, names = read_concepts(toy_emojibase)
    monkey = concepts[names["monkey"]]
    assert (monkey.tags, monkey.group, monkey.subgroup, monkey.tier) == (
        ("toy",),
        "animals & nature",
        "animal-mammal",
        "object",
    )
    assert concepts["1F92A"].tier == "face"
    assert not any("flag" in concept.label for concept in concepts.values())
    assert names["grinningfacewithonelargeandonesmalleye"] == "1F92A"  # the character's older Unicode name joins too


def test_clusters_with_a_face_are_never_held_out():
    def concept(label: str, tier: str) -> Concept:
        return Concept("0", label, (), "", "", tier, cluster_of(label))  # pyright: ignore[reportArgumentType]

    held = next(word for word in (f"thing{i}" for i in range(200)) if hash_percentile(word) < 13)
    assert held in held_out_clusters([concept(held, "object")])[0]
    assert held not in held_out_clusters([concept(held, "object"), concept(f"laughing {held}", "face")])[0]


def test_about_an_eighth_of_many_clusters_is_held_out_for_testing():
    concepts = [Concept(str(i), f"w{i}q", (), "", "", "object", f"w{i}q") for i in range(2000)]
    test, val = held_out_clusters(concepts)
    assert not test & val
    # Binomial(2000, 0.13) and (2000, 0.06): five standard deviations are 75 and 53.
    assert abs(len(test) - 260) < 75
    assert abs(len(val) - 120) < 53


def test_single_characters_have_unicode_names():
    concepts = character_concepts(["1F34E", "1F1FA-1F1F3", "1F550", "1F3FB", "E000"])
    assert [(c.label, c.cluster, c.tier) for c in concepts.values()] == [("red apple", "apple", "unsorted")]
