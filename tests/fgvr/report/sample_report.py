"""A report's content as a run would fill it, with names that nobody should trust."""

from fgvr.beliefs.guard import Verdict
from fgvr.evaluation.images import MethodResult
from fgvr.metrics.label_space import statistics
from fgvr.metrics.scores import MethodScores
from fgvr.report.aspects import AspectFacts, AspectLine, Overhead
from fgvr.report.confusions import class_scores
from fgvr.report.page import Candidate, ImageCard, IssueCard, Prediction, ReportContent, UnsureCard
from fgvr.report.pictures import AnswerPair, AspectCard, AspectPictures, Dots
from fgvr.report.recommendation import Recommendation
from fgvr.report.results import CandidateFacts, Costs, EvaluationSet, LabelSpace, MethodCost, Results, StageResult
from fgvr.report.take_home import NameCount, Tally

SCRIPT = "<script>document.title='owned'</script>"
HOSTILE_FILE = '"><img src=x onerror=alert(1)>.jpg'
RED_DOT = "data:image/gif;base64,R0lGODlhAQABAIAAAP8AAP///yH5BAAAAAAALAAAAAABAAEAAAICRAEAOw=="

VERDICT = Verdict(images=900, differ=100, for_own=15, for_sets=45)


def method(base: float) -> MethodResult:
    scores = MethodScores(
        sacc=base + 8,
        cacc=base + 3,
        siou=base + 5.5,
        top1=base,
        images=540,
        unnamed=3,
        names=41,
        mapped=0.9,
        intervals={"sacc": (base + 6, base + 10), "top1": (base - 3.5, base + 3.5)},
    )
    return MethodResult(images=540, unnamed=3, names=41, scores=scores)


def results(*, scored: bool = True, with_aspects: bool = True) -> Results:
    names = (
        ["Crested Azure Finch"] * 31 + ["Marsh Tern"] * 22 + [f"Rare {n} Gull" for n in range(40)] + [SCRIPT] * 5 + [""]
    )
    counts = sorted({name: names.count(name) for name in names if name}.items(), key=lambda item: -item[1])
    methods = {name: method(50.0 + 5 * n) for n, name in enumerate(["mllm", "zs_clip", "near", "base", "makd"])}
    if not scored:
        methods = {name: MethodResult(found.images, found.unnamed, found.names) for name, found in methods.items()}
    return Results(
        run="demo",
        evaluation=EvaluationSet(
            "test", 540, 540 if scored else 0, 36 if scored else 0, False, "all-MiniLM-L6-v2", "near"
        ),
        methods=methods,
        stages=[
            StageResult("samples", 3.2, 1620, 0),
            StageResult(
                "labels", 41.0, 360, 4, {"corrupt": 3, "refused": 1}, {"prompt_tokens": 13_000, "output_tokens": 2_000}
            ),
            StageResult("makd", 95.0, 20, 0),
            StageResult("eval_mllm_answers", 2.0, 540, 0, {}, {"prompt_tokens": 900, "output_tokens": 100}),
        ],
        agreement=[[1.0 if a == b else 0.6 for a in range(5)] for b in range(5)],
        label_space=LabelSpace(statistics(names), counts, merged=12),
        candidates=CandidateFacts(
            2.3,
            0.91 if scored else None,
            0.64,
            0.88,
            True,
            VERDICT.in_words(),
            "true: labels 0.65 right, neighbourhoods 0.91 pure" if scored else "",
            true_label_accuracy=0.65 if scored else None,
            candidate_accuracy=0.83 if scored else None,
            disambiguated_accuracy=0.9 if scored else None,
        ),
        costs=Costs(
            10_000,
            {
                "mllm": MethodCost(0, 0, 17.5, 104.2),
                "near": MethodCost(0.05, 0.6, 0.03, None, ("gpt-9", "gpu_hour")),
            },
            "2026-01-01, a list",
        ),
        aspects=aspects() if with_aspects else None,
        recommendation=Recommendation("near", "truth", "480 of 540 are right.", (), {"makd": "it saw all"}),
        human_labels=("makd",),
        scored_on_training=("base",),
        next_steps=(
            ("Look", "python pipelines/review.py runs/demo"),
            ("Classify", "python pipelines/infer.py"),
        ),
    )


def aspects() -> AspectFacts:
    """Thirteen questions, one more than are shown at once; the second is hostile."""
    texts = ["Is the body blue?", SCRIPT, *(f"Is it {n}?" for n in range(11))]
    ends = (("Crested Azure Finch", 0.97),), ((SCRIPT, 0.02),)
    lines = [
        AspectLine(text, n + 1, 0.25, 0.8, 0.023, 0.084, 0.01, 0.98, 0.991, (30, 0, 0, 0, 0, 0, 0, 0, 0, 6), *ends)
        for n, text in enumerate(texts)
    ]
    lines[-1] = AspectLine("Is it dull?", 13, 0.5, 0.0, 0.0, None, None, None, None, (0,) * 10, (), ())
    cost = Overhead(217_332, 209_108, 500.0, 510.0, 0.00096)
    return AspectFacts(1080, 36, "near", 5.17, 1080, 0.939, 108, True, tuple(lines), cost)


def pictures() -> AspectPictures:
    card = AspectCard(HOSTILE_FILE, RED_DOT, "", SCRIPT, [AnswerPair(SCRIPT, 0.4, None), AnswerPair("Is it?", 1, 0.52)])
    return AspectPictures(9, 4, [Dots("", 0, "M1 1h0", "M2 2h0"), Dots(SCRIPT, 1, "M3 3h0", "M4 4h0")], [card])


def content(*, scored: bool = True, with_aspects: bool = True) -> ReportContent:
    candidates = [Candidate("Crested Azure Finch", 1 / 3, 0.92), Candidate(SCRIPT, 2 / 3, 0.08)]
    predictions = [
        Prediction("near", "Crested Azure Finch", 0.71),
        Prediction("makd", SCRIPT, 0.4),
        Prediction("base", ""),
    ]
    good = ImageCard(
        "0000012.jpg",
        RED_DOT,
        "",
        "A crested azure finch.",
        "Crested Azure Finch",
        "Crested Azure Finch",
        candidates,
        predictions,
    )
    bad = ImageCard(HOSTILE_FILE, "", f"corrupt: {SCRIPT}", SCRIPT, SCRIPT, "")
    facts = [("MLLM", "demo"), ("CLIP", "demo"), ("Photos", "1,620 drawings"), ("File", HOSTILE_FILE)]
    found = results(scored=scored, with_aspects=with_aspects)
    why = "its neighbours' labels: 3% Azure Finch, 71% Crested Azure Finch"
    issues = [
        IssueCard("0000013.jpg", RED_DOT, "", "Azure Finch", "Crested Azure Finch", ["Crested Azure Finch"], why),
        IssueCard(HOSTILE_FILE, "", f"corrupt: {SCRIPT}", SCRIPT, "", [SCRIPT, "Wren"], SCRIPT),
    ]
    tally = Tally(3600, 3580, 15, 5, [NameCount(SCRIPT, 3580, 0.7)], [])
    unsure = [
        UnsureCard("0000031.jpg", RED_DOT, "", "Marsh Tern", 0.05, True, "Marsh Tern"),
        UnsureCard(HOSTILE_FILE, "", f"corrupt: {SCRIPT}", SCRIPT, 0.06, False, "Wren"),
    ]
    classes = None
    if scored:
        true = ["Wren"] * 4 + ["Marsh Tern"] * 6 + [SCRIPT] * 5
        classes = class_scores(
            "near", ["Marsh Tern"] * 3 + ["Wren"] + ["Marsh Tern"] * 5 + ["Wren"] + [SCRIPT] * 5, true
        )
    return ReportContent(
        found,
        facts,
        [good, bad] * 6,
        "2026-01-02 03:04",
        pictures(),
        issues,
        tally=tally,
        unsure=unsure,
        classes=classes,
    )
