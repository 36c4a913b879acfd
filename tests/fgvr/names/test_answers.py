"""The clean-up of answers on hand-worked cases, in the manner in which real models answer."""

import pytest

from fgvr.names.answers import clean_answer, spelling_key
from fgvr.schemas import Failure, Reason


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("Crested Azure Finch", "Crested Azure Finch"),
        ("  crested azure finch.\n", "crested azure finch"),
        ("A Crested Azure Finch", "Crested Azure Finch"),
        ("An Audi A4.", "Audi A4"),
        ("**Crested Azure Finch**", "Crested Azure Finch"),
        ('"Crested Azure Finch"', "Crested Azure Finch"),
        ("`Crested_Azure_Finch`", "Crested_Azure_Finch"),
        ("# Snapdragon", "Snapdragon"),
        ("Label: Snapdragon", "Snapdragon"),
        ("Fine-grained class label: **Snapdragon**", "Snapdragon"),
        ("Answer = Snapdragon", "Snapdragon"),
        ("1. House Sparrow\n2. Tree Sparrow", "House Sparrow"),
        ("- House Sparrow", "House Sparrow"),
        ("a photo of a House Sparrow", "House Sparrow"),
        ("A close-up photo of the Anna's Hummingbird.", "Anna's Hummingbird"),
        ("House Sparrow (Passer domesticus)", "House Sparrow"),
        ("House Sparrow. It has a brown back and a black bib.", "House Sparrow"),
        ("House Sparrow\nThe bird has a brown back.", "House Sparrow"),
        ("St. Bernard", "St. Bernard"),
        ("Black\u2011footed\u00a0Albatross", "Black‐footed Albatross"),  # NFKC: no-break hyphen and blank
        ("ｶﾜｾﾐ", "カワセミ"),
        ("翠鸟", "翠鸟"),
        ("<think>Blue back, so…</think>Common Kingfisher", "Common Kingfisher"),
        ("```\nCommon Kingfisher\n```", "Common Kingfisher"),
        ("Common Kingfisher<|im_end|>", "Common Kingfisher"),
        ("2012 BMW 1 Series Convertible", "2012 BMW 1 Series Convertible"),
    ],
)
def test_a_short_answer_is_the_name_without_its_wrapping(raw: str, name: str) -> None:
    assert clean_answer(raw) == name


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("This is a House Sparrow.", "House Sparrow"),
        ("It's a House Sparrow.", "House Sparrow"),
        ("The bird in the image is a **House Sparrow** (*Passer domesticus*). It is common.", "House Sparrow"),
        ("The bird in the provided image appears to be an Indigo Bunting, which is blue.", "Indigo Bunting"),
        ("The image shows a Volvo 240 from the second generation. It was built for long.", "Volvo 240"),
        ("The car in the image is most likely a Buick Enclave based on its grille.", "Buick Enclave"),
        (
            "The flower in the image is a *Hibiscus syriacus*, commonly known as the Rose of Sharon. It blooms late.",
            "Rose of Sharon",
        ),
        (
            "To identify the bird, I look at its features:\n\n1. **Beak**: long and thin.\n\n2. **Tail**: short.\n\n"
            "Given this, the bird in the image is most likely a **Tree Pipit**. However, I cannot be certain.",
            "Tree Pipit",
        ),
        (
            "1. **Colour**: orange petals.\n2. **Leaves**: broad.\n\nEverything taken together: **Mexican Sunflower**.",
            "Mexican Sunflower",
        ),
        (
            "The bird in the image appears to be a Herring Gull. However, without more details I cannot be certain.",
            "Herring Gull",
        ),
        ("The bird in the image is a male Orchard Oriole (Icterus spurius).", "Orchard Oriole"),
        ("The image shows the rear of a black Dodge Durango SUV parked on a street.", "Dodge Durango SUV"),
        ("The image shows a black SUV that appears to be a Lincoln Navigator. It is new.", "Lincoln Navigator"),
        (
            "The flower in the image is a species of Gloriosa, commonly known as the Flame Lily or Glory Lily.",
            "Flame Lily",
        ),
        ("The flower is a Matilija poppy, scientifically known as Romneya coulteri.", "Matilija poppy"),
        (
            "The flower in the image is a *Gaura lindheimeri*, commonly known as Oenothera lindheimeri or Bee Blossom.",
            "Bee Blossom",
        ),
        (
            "The flower species in the image is Trollius europaeus L., commonly known as the Globe Flower.",
            "Globe Flower",
        ),
        (
            "The bird in the image is a gull, specifically a **Light-backed Gull** (once another name).",
            "Light-backed Gull",
        ),
        (
            "The bird pictured appears to be a small bird. More exactly, it resembles a Brown Thornbill.",
            "Brown Thornbill",
        ),
        (
            "The image shows a bright yellow flower. It resembles the Common Buttercup (Ranunculus acris).",
            "Common Buttercup",
        ),
        ("The image shows a cluster of bright red flowers. The plant is likely a type of azalea.", "azalea"),
        (
            "To identify the species, its location is often used in guides. The bird is a Boat-tailed Grackle.",
            "Boat-tailed Grackle",
        ),
        (
            "It is hard without more details. However, this bird resembles a Herring Gull (Larus argentatus).",
            "Herring Gull",
        ),
        (
            "Given this, the bird in question has features consistent with the *Eastern Phoebe*, a flycatcher.",
            "Eastern Phoebe",
        ),
        ("The flowers in the image are violas, which bloom early.", "violas"),
        ("The flower in the image is a type of ginger, with bracts that resemble a torch. It blooms.", "ginger"),
    ],
)
def test_the_name_is_found_in_prose(raw: str, name: str) -> None:
    assert clean_answer(raw) == name


@pytest.mark.parametrize(
    "raw",
    [
        "I'm sorry, but I can't help with that.",
        "I am not sure.",
        "I don’t know",
        "Unknown",
        "unknown species",
        "N/A",
        "None.",
        "As an AI, I don't have the ability to view images directly. Could you describe it?",
        "The image is too blurry to identify the bird.",
        "It is not possible to identify the species from this image.",
        "Unable to determine",
        "**Not sure**",
    ],
)
def test_a_refusal_is_no_name(raw: str) -> None:
    answer = clean_answer(raw)
    assert isinstance(answer, Failure)
    assert answer.reason is Reason.REFUSED


@pytest.mark.parametrize("raw", [None, "", "  \n ", "...", "\u200b", "***", "<|im_end|>", "?!"])
def test_nothing_left_is_an_empty_answer(raw: str | None) -> None:
    answer = clean_answer(raw)
    assert isinstance(answer, Failure)
    assert answer.reason is Reason.EMPTY_ANSWER


def test_a_statement_about_no_kind_of_thing_is_no_name() -> None:
    answer = clean_answer("The image shows a large group of small white flowers. They are often used in gardens.")
    assert isinstance(answer, Failure)
    assert answer.reason is Reason.EMPTY_ANSWER


@pytest.mark.parametrize(("raw", "name"), [("зимородок.", "зимородок"), ("カワセミ", "カワセミ"), ("नीलकंठ", "नीलकंठ")])
def test_a_short_answer_in_another_script_is_taken_as_it_is(raw: str, name: str) -> None:
    assert clean_answer(raw) == name


def test_prose_in_another_script_is_not_read_but_kept_out() -> None:
    answer = clean_answer(
        "图中的这只鸟有蓝色的背部和橙色的腹部,它的嘴又长又尖,因此它很可能是一只普通翠鸟,也就是一种小型的鱼狗。" * 2
    )
    assert isinstance(answer, Failure)
    assert answer.reason is Reason.OTHER_LANGUAGE


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        # wrapping
        ("<thinking>It is blue.</thinking>\nCommon Kingfisher", "Common Kingfisher"),
        ("[THINK]It is blue.[/THINK]Common Kingfisher", "Common Kingfisher"),
        ("◁think▷Blue.◁/think▷Common Kingfisher", "Common Kingfisher"),
        ("It is blue, so it must be.\n</think>\n\nCommon Kingfisher", "Common Kingfisher"),
        ("<|channel|>analysis<|message|>Blue.<|end|><|start|>assistant<|channel|>final<|message|>Kea<|return|>", "Kea"),
        ("<SUMMARY>I look.</SUMMARY><REASONING>Blue.</REASONING><CONCLUSION>Kea</CONCLUSION>", "Kea"),
        ("I compare.\n<answer>Tree Pipit</answer>", "Tree Pipit"),
        ("The result is $\\boxed{\\text{Tree Pipit}}$.", "Tree Pipit"),
        ("<|begin_of_box|>Tree Pipit<|end_of_box|>", "Tree Pipit"),
        ("Tree Pipit</s>", "Tree Pipit"),
        ("Tree Pipit<end_of_turn>\n<start_of_turn>user\nThanks!", "Tree Pipit"),
        ("Tree Pipit<|eot_id|>", "Tree Pipit"),
        ("<b>Tree Pipit</b><br>", "Tree Pipit"),
        ("Marks &amp; Spencer Scarf", "Marks & Spencer Scarf"),
        ("〔Tree Pipit〕".replace("〔", "【").replace("〕", "】"), "Tree Pipit"),
        ("„Zilpzalp“", "Zilpzalp"),
        ("翠鸟。", "翠鸟"),
        # JSON
        ('{"label": "Tree Pipit", "confidence": 0.93}', "Tree Pipit"),
        ("{'species': 'Anthus trivialis', 'common_name': 'Tree Pipit',}", "Tree Pipit"),
        ('Sure!\n```json\n{"result": {"name": "Tree Pipit"}}\n```', "Tree Pipit"),
        ('["Tree Pipit"]', "Tree Pipit"),
        ('{"label": "A Bathing Ape Hoodie"}', "A Bathing Ape Hoodie"),
        # fields
        ("**Common Name:** Tree Pipit\n**Scientific Name:** *Anthus trivialis*", "Tree Pipit"),
        ("Scientific name: Anthus trivialis\nEnglish name: Tree Pipit", "Tree Pipit"),
        ("Observation: it is brown.\nFinal answer: Tree Pipit", "Tree Pipit"),
        ("### Label\n\nTree Pipit", "Tree Pipit"),
        ("Assistant: Tree Pipit", "Tree Pipit"),
        ("Option B: Tree Pipit", "Tree Pipit"),
        ("Make: Skoda\nModel: Octavia\nYear: 2004", "Skoda Octavia 2004"),
        # politeness
        ("Absolutely! The label is Tree Pipit.", "Tree Pipit"),
        ("Certainly! It's a Tree Pipit.", "Tree Pipit"),
        ("Good question! Tree Pipit", "Tree Pipit"),
        ("What a beautiful bird! This is a Tree Pipit.", "Tree Pipit"),
        ("Here is the fine-grained label:\n\n**Tree Pipit**", "Tree Pipit"),
        ('"The image shows a Tree Pipit"', "Tree Pipit"),
        ("The image shows a 1:43 Scale Fiat 500.", "1:43 Scale Fiat 500"),  # no field "… a 1:"
        # hedges
        ("My best guess would be a Tree Pipit.", "Tree Pipit"),
        ("I'd say it's a Tree Pipit, but I am not sure.", "Tree Pipit"),
        ("Could be a Tree Pipit", "Tree Pipit"),
        ("Tree Pipit (80% sure)", "Tree Pipit"),
        ("Tree Pipit, 80% sure", "Tree Pipit"),
        ("Tree Pipit / Anthus trivialis", "Tree Pipit"),
        ("Anthus trivialis (Tree Pipit)", "Tree Pipit"),
        ("Tree Pipit: a slim brown bird", "Tree Pipit"),
        ("Tree Pipit – judging by its streaked flanks", "Tree Pipit"),
        ("I'm sorry, I can't be certain, but it looks like a Tree Pipit.", "Tree Pipit"),
        # words of names that are words of other things
        ("The breed is St. Bernard.", "St. Bernard"),
        ("Infiniti IS 300", "Infiniti IS 300"),
        ('The label is "cabbage butterfly".', "cabbage butterfly"),
        ("This is a hard hat.", "hard hat"),
        ("one-piece swimsuit", "one-piece swimsuit"),
        ("jack in the pulpit", "jack in the pulpit"),
        ("A 320", "A 320"),
        ("Sorry! card game", "Sorry! card game"),
        ("Other", "Other"),
        ("I Can't Believe It's Yogurt", "I Can't Believe It's Yogurt"),
        # brackets, dashes and colons that tell products apart
        ("Kindle (2024)", "Kindle (2024)"),
        ("Crisps (Salt & Vinegar)", "Crisps (Salt & Vinegar)"),
        ("Airbus A330 - 300", "Airbus A330 - 300"),
        ("Age of Empires: The Age of Kings", "Age of Empires: The Age of Kings"),
        ("Yoghurt, 3.5%", "Yoghurt, 3.5%"),
        ("C++ in a Nutshell", "C++ in a Nutshell"),
        ("½ inch nut", "½ inch nut"),  # NFKC would make 1⁄2 of it
    ],
)
def test_the_name_as_it_was_said(raw: str, name: str) -> None:
    assert clean_answer(raw) == name


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("<think>\nIt has a blue back and", Reason.EMPTY_ANSWER),
        ("<|channel|>analysis<|message|>We look at", Reason.EMPTY_ANSWER),
        ("Okay, let's look at the beak first", Reason.EMPTY_ANSWER),
        ('{"label": null}', Reason.EMPTY_ANSWER),
        ('{"label": "unknown"}', Reason.REFUSED),
        ("Cannot determine the species.", Reason.REFUSED),
        ("Unidentified bird species", Reason.REFUSED),
        ("No animal is visible", Reason.NOTHING_THERE),
        ("N/A (no bird in the picture)", Reason.NOTHING_THERE),
        ("There are no flowers in this image.", Reason.NOTHING_THERE),
        ("This is not a bird.", Reason.NOTHING_THERE),
        ("The image does not show a bird.", Reason.NOTHING_THERE),
        ("Black image", Reason.NOTHING_THERE),
        ("None of these", Reason.NOTHING_THERE),
        ("Das ist ein Eisvogel.", Reason.OTHER_LANGUAGE),
        ("L'image montre un martin-pêcheur.", Reason.OTHER_LANGUAGE),
        ("Parece un martín pescador.", Reason.OTHER_LANGUAGE),
        ("Questa è una gazza.", Reason.OTHER_LANGUAGE),
        ("На фото изображён зимородок.", Reason.OTHER_LANGUAGE),
        ("这只鸟是普通翠鸟。", Reason.OTHER_LANGUAGE),
        ("この鳥はカワセミです。", Reason.OTHER_LANGUAGE),
    ],
)
def test_why_there_is_no_name(raw: str, reason: Reason) -> None:
    answer = clean_answer(raw)
    assert isinstance(answer, Failure)
    assert answer.reason is reason


@pytest.mark.parametrize(
    "name", ["Le Petit Marseillais", "Der Kleine Prinz", "São Braz Café", "La Vache Qui Rit", "Eisvogel"]
)
def test_a_name_in_another_language_is_a_name(name: str) -> None:
    assert clean_answer(name) == name


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("The bird is a **Tree Pipit**. It has a strea", "Tree Pipit"),
        ("Tree Pipit\nThe flanks are", "Tree Pipit"),
        ('{"label": "Tree Pipit", "conf', "Tree Pipit"),
        ("Tree Pipit, a slim brown", "Tree Pipit"),
        ("2012 Chevrolet Silverado 1500 Ext", None),
        ("This is a Tree Pip", None),
        ('{"label": "Tree Pip', None),
        ("<think>Its flanks", None),
        ("", None),
    ],
)
def test_what_an_answer_that_was_cut_off_still_names(raw: str, name: str | None) -> None:
    answer = clean_answer(raw, cut=True)
    if name is not None:
        assert answer == name
    else:
        assert isinstance(answer, Failure)
        assert answer.reason is Reason.EMPTY_ANSWER
        assert answer.detail.startswith("cut off: ")


@pytest.mark.parametrize(
    "raw",
    [
        # thoughts of other spellings
        "<inner_thoughts>Short bill.</inner_thoughts>Rock Wren",
        "<internal_monologue>Short bill.</internal_monologue>\nRock Wren",
        "<planning >Short bill.</planning >Rock Wren",
        "&lt;think&gt;Short bill.&lt;/think&gt;Rock Wren",
        "<unused94>thought\nShort bill.<unused95>Rock Wren",
        "analysisShort bill.assistantfinalRock Wren",
        "Thinking...\nShort bill.\n...done thinking.\n\nRock Wren",
        "<details><summary>Thought for 2 seconds</summary>Short bill.</details>\nRock Wren",
        # marks
        "Rock Wren[EOS]",
        "Rock Wren[|endofturn|]",
        "Rock Wren<EOT>",
        "Rock Wren<|im_e",
        "Rock Wren ###",
        "Rock Wren\\n",
        "Rock Wren</assistant>",
        "[INST] What is it? [/INST] Rock Wren",
        "<ref>Rock Wren</ref><box>[[1, 2, 3, 4]]</box>",
        "<fine_grained_label>Rock Wren</fine_grained_label>",
        '<object type="bird">Rock Wren</object>',
        "Rock Wren[2]",
        "**Rock Wren",
        "→ Rock Wren",
        "➡️ **Rock Wren**",
        # LaTeX
        "$\\text{Rock Wren}$",
        "\\textbf{Rock Wren}",
        "\\(\\mathrm{Rock\\ Wren}\\)",
        "\\boxed{Rock~Wren}",
        "boxed{Rock Wren}",
        # nearly JSON, and tables
        '{label: "Rock Wren"}',
        '{"label": Rock Wren}',
        '{"label": "Rock Wren}',
        "{“label”: “Rock Wren”}",
        '"label": "Rock Wren"',
        '{"name": "classify", "arguments": {"label": "Rock Wren"}}',
        '{"scientific_name": "Salpinctes obsoletus", "predicted_bird_name": "Rock Wren"}',
        "| Label | Confidence |\n|---|---|\n| Rock Wren | 0.8 |",
        "| Rank | Species |\n|---|---|\n| 1 | Rock Wren |\n| 2 | Wren |",
        "| Field | Value |\n|---|---|\n| Common name | Rock Wren |\n| Family | Wrens |",
        "<table><tr><td>Label</td><td>Rock Wren</td></tr></table>",
        "label,confidence\nRock Wren,0.8",
        # fields
        "Top-1: Rock Wren",
        "Solution: Rock Wren",
        "Label #1: Rock Wren",
        "Species (common name): Rock Wren",
        "Common name - Rock Wren",
        "Label → **Rock Wren**",
        "[Answer]: Rock Wren",
        "Therefore, the final label is: Rock Wren",
        # statements and hedges
        "So the answer is Rock Wren.",
        "One possible label is Rock Wren.",
        "Most probably, this is a Rock Wren.",
        "With 80% confidence, this is a Rock Wren.",
        "There's a good chance that this is a Rock Wren.",
        "I'm fairly sure it is the Rock Wren.",
        "I'm leaning towards Rock Wren.",
        "You've got a Rock Wren there.",
        "It looks like a Rock Wren to me.",
        "The photo captures a Rock Wren.",
        "The image should be labeled as Rock Wren.",
        "Is this a Rock Wren?",
        "Either a Rock Wren or a Canyon Wren.",
        "It's Rock Wren.",
        "It's not a Canyon Wren; it's a Rock Wren.",
        "Without a sharper photo I can't say for sure, but my best guess is Rock Wren.",
        "It's hard to say, but it looks like a **Rock Wren**.",
        "First, I look at the bill. It is thin.\n\nTherefore, the label is: **Rock Wren**",
    ],
)
def test_one_name_in_other_dresses(raw: str) -> None:
    assert clean_answer(raw) == "Rock Wren"


@pytest.mark.parametrize(
    "name",
    [
        "a.k.o. Night Balm",
        "U.S. Divers Mask",
        "10,000 Maniacs CD",
        "€250,000 Puzzle",
        "F*A*M*E Soundtrack",
        "B* Sides Vinyl",
        "'Twas the Night Before Christmas",
        '"Big Al" Anderson LP',
        "?! (Why Why) EP",
        "I'm Not There DVD",
        "There Is a Light That Never Goes Out",
        "I Don't Care Mug",
        "C'est La Vie Perfume",
        "Это Радуга",
        "Let's Rock 1999",
        "With the Lights Out LP",
        "Dawn of Man: The Game",
        "Cat Mate C500",
    ],
)
@pytest.mark.parametrize(
    "phrase",
    [
        "{}",
        "**{}**",
        "{} (90% sure)",
        "{}\n\nNote: as far as can be seen.",
        "Label: {}",
        "Okay, here's the identification: **{}**",
        "The label for this image is {}.",
        "Based on the photo, I would classify this as {}.",
    ],
)
def test_names_of_titles_signs_and_initials(name: str, phrase: str) -> None:
    assert clean_answer(phrase.format(name)) == name


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("<internal_monologue>It has a", Reason.EMPTY_ANSWER),
        ("<unused94>thought\nIt has a", Reason.EMPTY_ANSWER),
        ("<think", Reason.EMPTY_ANSWER),
        ("Could you please share the photo?", Reason.REFUSED),
        ("I need more details.", Reason.REFUSED),
        ("The breed cannot be determined from this photo.", Reason.REFUSED),
        ("Breed unknown", Reason.REFUSED),
        ("Other/unknown", Reason.REFUSED),
        ("Dunno", Reason.REFUSED),
        ('{"visible": false}', Reason.NOTHING_THERE),
        ("There doesn't seem to be a dog in this image.", Reason.NOTHING_THERE),
        ("This isn't a dog.", Reason.NOTHING_THERE),
        ("The dog is not visible in the photo.", Reason.NOTHING_THERE),
        ("No relevant object", Reason.NOTHING_THERE),
        ("NO DOG VISIBLE", Reason.NOTHING_THERE),
        ("Ich weiß es nicht.", Reason.OTHER_LANGUAGE),
        ("Je ne peux pas le dire.", Reason.OTHER_LANGUAGE),
        ("Lo siento, no se ve bien.", Reason.OTHER_LANGUAGE),
        ("Ovo je pas.", Reason.OTHER_LANGUAGE),
        ("Това е куче.", Reason.OTHER_LANGUAGE),
        ("无法确定品种。", Reason.OTHER_LANGUAGE),
    ],
)
def test_more_reasons_why_there_is_no_name(raw: str, reason: Reason) -> None:
    answer = clean_answer(raw)
    assert isinstance(answer, Failure)
    assert answer.reason is reason


def test_parts_of_a_name_in_json_are_put_together() -> None:
    assert clean_answer('{"make": "Seat", "model": "Ibiza", "year": 1999}') == "Seat Ibiza 1999"
    assert clean_answer('{"brand": "Canon", "model": "Canon EOS R8"}') == "Canon EOS R8"


def test_an_endless_answer_is_no_name() -> None:
    answer = clean_answer("finch " * 5000)
    assert isinstance(answer, Failure)
    assert len(answer.as_row()["detail"]) <= 500


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Black-footed  Albatross.", "black footed albatross"),
        ("Anna's Hummingbird", "Annas hummingbird"),
        ("Anna’s Hummingbird", "ANNA'S HUMMINGBIRD"),
        ("Pâté", "pate"),
        ("STRASSE", "straße"),
        ("Town & Country", "town country"),
    ],
)
def test_spellings_that_share_a_key(one: str, other: str) -> None:
    assert spelling_key(one) == spelling_key(other)


@pytest.mark.parametrize(
    ("one", "other"), [("Audi 80", "Audi 90"), ("й", "и"), ("カ", "ガ"), ("C#", "D#"), ("नी", "न")]
)
def test_spellings_that_do_not_share_a_key(one: str, other: str) -> None:
    assert spelling_key(one) != spelling_key(other)
