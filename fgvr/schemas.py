"""Arrow schemas of the tables through which stages communicate. A failed row is still a row; its `error` says why.

When a schema changes its meaning, raise `SCHEMA_VERSION`: it is part of every fingerprint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

from fgvr.redact import masked

SCHEMA_VERSION = 2


class Reason(StrEnum):
    """Why a row failed; the report counts rows per reason."""

    NOT_FOUND = "not_found"  # no file at the URI
    UNREADABLE = "unreadable"  # permission, network, a directory where a file should be
    NOT_ALLOWED = "not_allowed"  # ingest.limits.web or allowed_roots forbids the host, its address or the place
    EMPTY_FILE = "empty_file"  # zero bytes
    TOO_MANY_BYTES = "too_many_bytes"  # above the byte limit, not read
    TOO_MANY_PIXELS = "too_many_pixels"  # above the pixel limit (a decompression bomb), not decoded
    CORRUPT = "corrupt"  # an image format, but truncated or damaged
    NOT_AN_IMAGE = "not_an_image"  # not an image format that Pillow knows
    WRONG_SIZE = "wrong_size"  # the boxes were drawn on an image of another size
    REFUSED = "refused"  # the model answered that it cannot or will not say
    EMPTY_ANSWER = "empty_answer"  # no name in the answer, or it was cut off before the name
    STRUCK_OUT = "struck_out"  # a person decided that the name is none, or not that of the photo
    NOTHING_THERE = "nothing_there"  # the model answered that the photo shows nothing of the kind
    OTHER_LANGUAGE = "other_language"  # the model answered in a language that is not parsed
    NO_LABEL_MASS = "no_label_mass"  # no measurable probability on yes or no, or on any class name
    REQUEST_REJECTED = "request_rejected"  # the engine did not take the request (too long, not supported)
    ENGINE_ERROR = "engine_error"  # the engine or server failed on this request, after retries
    NO_INPUT = "no_input"  # an earlier stage failed on this row
    NOT_IN_FILE = "not_in_file"  # the file of answers or vectors has no row about the photo
    CONTRADICTION = "contradiction"  # the file says two different things about the photo
    NOT_YET = "not_yet"  # a row of a table that is being computed, beside rows that an earlier table had
    BAD_VECTOR = "bad_vector"  # the file's vector has length 0, or values that are no finite numbers


@dataclass(frozen=True)
class Failure:
    """A failed row's reason code and a detail for people; `as_row` gives the value of the `error` column."""

    reason: Reason
    detail: str

    def as_row(self) -> dict[str, str]:
        """The value of the `error` column; details are masked, and cut since a hostile file can make them long."""
        return {"reason": self.reason.value, "detail": masked(self.detail[:2000])[:500]}


IMAGE_ID = pa.field("image_id", pa.int64(), nullable=False)
CLASS_ID = pa.field("class_id", pa.int64(), nullable=False)
SYNTHETIC_ID = pa.field("synthetic_id", pa.int64(), nullable=False)
KEYS = (IMAGE_ID.name, CLASS_ID.name, SYNTHETIC_ID.name)
"""Columns by which rows are known that may fail: of images, of the student's classes, or of generated pictures."""
ERROR = pa.field("error", pa.struct([("reason", pa.string()), ("detail", pa.string())]))


def key_of(names: Sequence[str]) -> str | None:
    """The column by which rows with these columns are known; None: they are not known by any."""
    return next((key for key in KEYS if key in names), None)


SAMPLES = pa.schema(
    [
        IMAGE_ID,  # dense, 0..n-1 in the order of the sorted URIs: an array index and the FAISS id
        # absolute path or URL, non-UTF-8 bytes percent-encoded; or a place in a file (fgvr.images.places)
        pa.field("uri", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),  # "train" if the source names none
        ("class_id", pa.int32()),  # true class; null if unknown
        ("class_name", pa.string()),  # its name
        ("metadata", pa.string()),  # other columns of the source as a JSON object
    ]
)

ANSWERS = pa.schema(
    [
        IMAGE_ID,
        ("texts", pa.list_(pa.string())),  # every answer as the model gave it, never changed; null if it gave none
        # whether each answer was cut off by the token limit; null if not known: older tables lack the column
        ("cut", pa.list_(pa.bool_())),
        ("logprobs", pa.list_(pa.float32())),  # mean log-probability of each answer's tokens, nats
        ("prompt_tokens", pa.int32()),  # over all answers, image tokens included
        ("output_tokens", pa.int32()),
        ERROR,
    ]
)

FILE_ANSWERS = pa.schema(
    [
        *ANSWERS,  # `texts`: best first; no logprobs, no tokens
        ("scores", pa.list_(pa.float64())),  # of each text, > 0; null: all weigh the same
    ]
)

LABELS = pa.schema(
    [
        IMAGE_ID,
        ("raw", pa.string()),  # the answer from which the label was taken
        ("label", pa.string()),  # canonical name in the label space, the heaviest candidate; null when the row failed
        ("label_id", pa.int32()),  # its index in label_space.json
        (
            "candidate_ids",
            pa.list_(pa.int32()),
        ),  # all names that the model gave, heaviest first: the label is the first
        ("candidate_weights", pa.list_(pa.float32())),  # their shares of the answers; sum to 1
        ("logprob", pa.float32()),  # of `raw`
        ("prompt_tokens", pa.int32()),  # as in ANSWERS
        ("output_tokens", pa.int32()),
        ERROR,
    ]
)


VOTES = pa.schema(
    [
        IMAGE_ID,  # ascending; an image has a row per source and name
        pa.field("source", pa.string(), nullable=False),  # its name in label.sources; `mllm` where there are none
        pa.field("rank", pa.int32(), nullable=False),  # 1 = the source's heaviest name for the image
        pa.field("label_id", pa.int32(), nullable=False),  # index in the label_space.json of the labels table
        pa.field("score", pa.float32(), nullable=False),  # share of the source's answer; sums to 1 per image and source
    ]
)


def embeddings(dim: int) -> pa.Schema:
    """L2-normalised vectors as little-endian fp16 bytes, `dim` values per row; null when the row failed."""
    fields = [IMAGE_ID, pa.field("vector", pa.binary(2 * dim)), ERROR]
    return pa.schema(fields, metadata={"dim": str(dim), "dtype": "float16"})


def texts(dim: int) -> pa.Schema:
    """Texts of a vocabulary or a caption database, with their L2-normalised vectors as in `embeddings`."""
    fields = [
        pa.field("text_id", pa.int64(), nullable=False),  # dense
        pa.field("text", pa.string(), nullable=False),
        pa.field("vector", pa.binary(2 * dim), nullable=False),
    ]
    return pa.schema(fields, metadata={"dim": str(dim), "dtype": "float16"})


NEIGHBOURS = pa.schema(
    [
        IMAGE_ID,
        ("neighbour_ids", pa.list_(pa.int64())),  # nearest first, starting with the image itself or its first copy
        ("neighbour_scores", pa.list_(pa.float32())),  # cosine similarities
        ERROR,
    ]
)

DUPLICATES = pa.schema(
    [
        IMAGE_ID,
        pa.field("photo_id", pa.int64(), nullable=False),  # the one image of its duplicate group that the MLLM labels
        ("similarity", pa.float32()),  # cosine similarity to that image; 1 for itself
    ]
)

CANDIDATES = pa.schema(
    [
        IMAGE_ID,
        ("neighbour_ids", pa.list_(pa.int64())),  # nearest first, starting with the image itself
        ("neighbour_scores", pa.list_(pa.float32())),  # cosine similarities
        ("label_ids", pa.list_(pa.int32())),  # distinct labels of the neighbours
        ("weights", pa.list_(pa.float32())),  # initial weights; sum to 1
    ]
)

DISAMBIGUATED = pa.schema(
    [
        IMAGE_ID,
        ("label_ids", pa.list_(pa.int32())),  # the candidate set
        ("weights", pa.list_(pa.float32())),  # its weights after training; sum to 1
        ("label_id", pa.int32()),  # the heaviest candidate
    ]
)

ISSUES = pa.schema(
    [
        IMAGE_ID,
        ("label", pa.string()),  # the label that is judged; null where there is none
        ("score", pa.float32()),  # 1: the most suspicious; an order, not a probability; null where it was not judged
        ("suggested", pa.list_(pa.string())),  # other names, best first
        ("neighbours_name", pa.string()),  # the first of them, where the neighbours prefer it to the label; else null
        ("why", pa.string()),  # the neighbours' labels, or why it was not judged
    ]
)

PHOTO_CHECKS = pa.schema(
    [
        IMAGE_ID,
        ("width", pa.int32()),  # upright, pixels; this and what follows is null where the photo cannot be read
        ("height", pa.int32()),
        ("file_bytes", pa.int64()),
        ("brightness", pa.float32()),  # mean luma, 0 … 255
        ("contrast", pa.float32()),  # its standard deviation
        ("sharpness", pa.float32()),  # variance of its Laplacian at a short side of 256 pixels
        ("digest", pa.binary(16)),  # of the file: equal for exact copies
        ("look", pa.int64()),  # perceptual hash: 64 bits, few of which differ between near-duplicates
        ("colours", pa.binary(48)),  # CIELAB (L, a, b) of 4 × 4 fields: a hash knows no colours
        ("unreadable", ERROR.type),  # why the photo cannot be read; no failed row, since that is what is checked
    ]
)

FINDINGS = pa.schema(
    [
        IMAGE_ID,  # a photo has a row per issue; by issue, the worst first
        pa.field("issue", pa.string(), nullable=False),  # fgvr.checks.findings.Issue
        ("value", pa.float32()),  # what was measured: the smaller, the worse; null for copies and unreadable photos
        ("copy_of", pa.int64()),  # the other photo; null where there is none
        ("detail", pa.string()),
    ]
)

SPACE = pa.schema(
    [
        pa.field("direction", pa.int32(), nullable=False),  # dense; along the first one neighbouring images differ most
        ("scatter", pa.float64()),  # variance of the differences along it, shrunk, in units of centred unit vectors
    ]
)

SELECTED = pa.schema(
    [
        IMAGE_ID,
        pa.field("round", pa.int8(), nullable=False),  # 1, or 2 where it was chosen after the first answers
        # medoid, typical; random: in place of a near-duplicate or an empty cluster; uncovered, disputed: in round 2
        pa.field("why", pa.string(), nullable=False),
        ("stands_for", pa.int64()),  # images of the pool to which it is the nearest asked one, itself included
        ("nearest_id", pa.int64()),  # the asked image that is nearest to it in the whitened space; null: it is alone
        ("similarity", pa.float32()),  # cosine to that one
    ]
)

REASKED = pa.schema(
    [
        IMAGE_ID,
        ("label", pa.string()),  # the label that was asked about
        ("names", pa.list_(pa.string())),  # the compared names: the label, the neighbours' name, another one
        (
            "scores",
            pa.list_(pa.float32()),
        ),  # mean log-probability of their tokens, nats; null when the row failed
        ("chosen", pa.string()),  # the name that the model prefers
        pa.field("replaced", pa.bool_(), nullable=False),  # whether it takes the label's place
        ("prompt_tokens", pa.int32()),  # over all requests
        ("cached_tokens", pa.int32()),  # of these, served from the prefix cache
        ERROR,
    ]
)

QUESTIONS = pa.schema(
    [
        pa.field("question_id", pa.int32(), nullable=False),  # dense, in the order of the ranks
        pa.field("text", pa.string(), nullable=False),
        ("rank", pa.int32()),  # 1 = most useful
        ("source", pa.string()),  # file name or model
    ]
)


def aspects(questions: int) -> pa.Schema:
    """Probabilities of "yes" for all `questions` about an image, in `question_id` order; null when the row failed."""
    vector = pa.list_(pa.float32())  # Parquet cannot restore null rows of a fixed-size list (Arrow 25)
    fields = [
        IMAGE_ID,
        ("p_yes", vector),  # softmax over the (Yes, No) log-probabilities of the first reply token
        ("label_mass", vector),  # p(Yes) + p(No): far below 1 if the model wanted to say something else
        ("prompt_tokens", pa.int32()),  # over all questions
        ("cached_tokens", pa.int32()),  # of these, served from the prefix cache
        ERROR,
    ]
    return pa.schema(fields, metadata={"questions": str(questions)})


def class_scores(classes: int) -> pa.Schema:
    """Scores of all `classes` as the MLLM's answer about an image, in the order of the student's classes."""
    fields = [
        IMAGE_ID,
        ("scores", pa.list_(pa.float32())),  # mean log-probability of the name's tokens, nats; null when the row failed
        ("prompt_tokens", pa.int32()),  # over all requests
        ("cached_tokens", pa.int32()),  # of these, served from the prefix cache
        ERROR,
    ]
    return pa.schema(fields, metadata={"classes": str(classes)})


SIGNATURES = pa.schema(
    [
        CLASS_ID,  # dense, in the order of the student's classes
        ("name", pa.string()),  # what the language model was told of the class; null where its worker died
        # of each question in the order of the file, the probability of each of its options; null when the row failed
        ("probabilities", pa.list_(pa.list_(pa.float32()))),
        (
            "label_mass",
            pa.list_(pa.float32()),
        ),  # of each question, p of all letters: far below 1 if it meant otherwise
        ("prompt_tokens", pa.int32()),  # over all requests
        ("cached_tokens", pa.int32()),  # of these, served from the prefix cache
        ERROR,
    ]
)


KIND_ANSWERS = pa.schema(
    [
        CLASS_ID,  # dense: the label space in its order, then true class names that it lacks
        ("name", pa.string()),  # what was asked about first; null where its worker died
        ("answers", pa.list_(pa.string())),  # raw replies: about the name, about its kind …; null for a failed request
        ("kinds", pa.list_(pa.string())),  # what they mean: the kinds above the name, the nearest first
        (
            "ended",
            pa.string(),
        ),  # why no further kind stands above: a reason code, "itself" or "circle"; null: asked no more
        ("prompt_tokens", pa.int32()),  # of the requests that were made for this name first
        ("output_tokens", pa.int32()),
        ERROR,
    ]
)
PARENTS = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),  # a name of the run, or a kind
        ("parent", pa.string()),  # the kind above it; null: it stands at the top
        ("depth", pa.int32()),  # edges from the root above all: 1 at the top
        ("level", pa.string()),  # its finest level; null for a name that the source does not know
        ("source", pa.string()),  # hierarchy.source
        ("is_name", pa.bool_()),  # a name of the run, and no kind alone
        ("answer", pa.string()),  # what the language model said about the name, where one was asked
        ("reason", pa.string()),  # why nothing stands above a name: "unknown" to the source, or how its answer ended
    ]
)


def looks(questions: int) -> pa.Schema:
    """What the model said about an image in one pass: a row of `ANSWERS` and one of `aspects`; null if not asked."""
    answer, aspect = (pa.struct([f for f in part if f.name != "image_id"]) for part in (ANSWERS, aspects(questions)))
    return pa.schema([IMAGE_ID, ("answer", answer), ("aspects", aspect), ERROR])  # error: from either part


SYNTHETIC = pa.schema(
    [
        SYNTHETIC_ID,  # dense: all pictures of a source stand together
        ("source_id", pa.int64()),  # image_id of the photo whose edges it has; null where its worker died
        ("name", pa.string()),  # the class target of that photo, which the picture is to show
        ("prompt", pa.string()),
        ("seed", pa.int64()),  # of the picture's own noise
        ("image", pa.binary()),  # a JPEG file, of rejected pictures, too; null where there are no pixels
        ("clip_score", pa.float32()),  # cosine of the picture and the basic prompt
        ("rank", pa.int32()),  # of the name among all names, 1 is the best; null where the classifier lacks the name
        ("kept", pa.bool_()),  # whether students learn from it; null when the row failed
        ("reason", pa.string()),  # why it was rejected (fgvr.augment.filters.Rejection); null where it was kept
        ERROR,
    ]
)

HEAD_TARGETS = pa.schema(
    [
        IMAGE_ID,
        ("label_id", pa.int32()),  # own label in the label space; null without a label or a vector: not learned from
        ("named", pa.string()),  # what the finished model says about the same image; null without a vector
        ("score", pa.float32()),  # its probability
    ]
)

POOL = pa.schema(
    [
        IMAGE_ID,
        ("label_ids", pa.list_(pa.int32())),  # names that are learned, best first: index in the namer's label list
        ("probabilities", pa.list_(pa.float32())),  # theirs; sum to 1
        ("weight", pa.float32()),  # how much the image counts: 0 … 1, more where a person has checked it
        ("kind", pa.string()),  # who named it: checked, settled (MLLM and NeaR), or near, heads, label_prototypes
        ("standing", pa.string()),  # trainer semi: why the name is trusted or not, see pool_targets.Standing; else null
        ERROR,
    ]
)

ENCODER_TARGETS = pa.schema(
    [
        IMAGE_ID,
        ("held_out", pa.bool_()),  # measured after every epoch, not learned from; null when the row failed
        ERROR,
    ]
)

ADAPTATION = pa.schema(
    [
        IMAGE_ID,
        ("role", pa.string()),  # `learn`: learned from; `judge`: never learned from, asked about before and after
        ("name", pa.string()),  # the trusted name
        ("why", pa.string()),  # why it is trusted: `checked` by a person, or `agreed` (fgvr.adapt.trusted)
        ("answer_before", pa.string()),  # the model's own greedy answer; this and what follows is null of `learn`
        ("answer_after", pa.string()),  # likewise with the adapter
        ("right_before", pa.bool_()),
        ("right_after", pa.bool_()),
        ERROR,
    ]
)

STUDENT_TARGETS = pa.schema(
    [
        IMAGE_ID,
        ("label_id", pa.int32()),  # class target: index in the student's label list; null when the row failed
        ("held_out", pa.bool_()),  # used for validation, not for training
        ("aspects", pa.bool_()),  # p(yes) was available; otherwise only the class was learned
        ERROR,
    ]
)

COMPARISON = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),  # timm's name of the backbone
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),  # photos that it is of; "" for a measure of the network itself
        pa.field("metric", pa.string(), nullable=False),
        ("value", pa.float64()),  # null where it is not defined, or where the training failed
        ("low", pa.float64()),  # 95% interval over photos; null without one
        ("high", pa.float64()),
        ("note", pa.string()),  # why there is no value, or what a reader must know
    ]
)

PREDICTIONS = pa.schema(
    [
        IMAGE_ID,
        ("label", pa.string()),  # null when the row failed
        ("label_id", pa.int32()),  # index in the model's label list
        ("score", pa.float32()),  # softmax probability of `label`
        ("top_labels", pa.list_(pa.string())),  # up to five, best first
        ("top_scores", pa.list_(pa.float32())),
        ("abstained", pa.bool_()),  # score below the configured threshold
        ("p_yes", pa.list_(pa.float32())),  # the student's aspect outputs; null for models without them
        ERROR,
    ]
)

PREDICTIONS_BY_LEVEL = PREDICTIONS.append(pa.field("level", pa.string()))
"""Where the answer may be a kind above the names (`hierarchy.decide`): its level, "" for a name without one. Of such a
kind `label_id` is null, and `score` is the probability of all names below it."""

CALIBRATION = pa.schema(
    [
        IMAGE_ID,  # photos whose right name is known from outside, and from which the student did not learn
        pa.field("label", pa.string(), nullable=False),  # the student's name
        ("score", pa.float32()),
        ("truth", pa.string()),  # what the photo shows; null where nobody said, which counts as wrong
        pa.field("right", pa.bool_(), nullable=False),  # whether the student's name is right
        ("kind", pa.string()),  # the kind above it in the tree of names; null without one
        ("kind_score", pa.float32()),  # summed scores of the student's best names below that kind
        pa.field("kind_right", pa.bool_(), nullable=False),
    ]
)

DECIDED = pa.schema(
    [
        IMAGE_ID,
        ("label", pa.string()),  # the name or kind that is given; null where nobody decides
        ("label_id", pa.int32()),  # index in the model's label list; null for kinds
        ("level", pa.string()),  # of a kind in the tree of names, "" for one without; null for names
        ("score", pa.float32()),  # of the step that decides: its threshold is in the table's metadata
        pa.field("decided_by", pa.string(), nullable=False),  # fgvr.calibration.cascade.By
        pa.field("why", pa.string(), nullable=False),  # fgvr.calibration.cascade.Why
        ("student_label", pa.string()),  # the student's name, sure or not; null where the photo cannot be read
        ("student_score", pa.float32()),
        ("tokens", pa.int32()),  # of the MLLM's second look; 0: it was not asked, null: its server does not say
    ]
)

ENERGY = pa.field("energy", pa.float32())
"""−log Σ exp of the class logits, the last column of predictions with `infer.drift.measure`; null for models without
logits of their own: NeaR and heads."""

DRIFT_REFERENCE = pa.schema(
    [
        IMAGE_ID,  # of a training split, not learned from
        ("distance", pa.float64()),  # cosine distance to the nearest photo that was learned from, in a whitened space
        ("doubt", pa.float64()),  # energy of the logits, or −log of the highest probability
        ("label", pa.string()),  # predicted name
        ERROR,
    ]
)

DRIFT_SCORES = pa.schema(
    [
        *[field for field in DRIFT_REFERENCE if field.name != "error"],  # of a new photo
        ("fit", pa.float64()),  # share of the reference photos that are no nearer: small where a photo fits nothing
        ERROR,
    ]
)

DRIFT = pa.schema(
    [
        pa.field("part", pa.int32(), nullable=False),  # dense; a part has a row per test
        pa.field("first_id", pa.int64(), nullable=False),  # smallest image_id of the part
        pa.field("last_id", pa.int64(), nullable=False),  # largest one
        pa.field("photos", pa.int64(), nullable=False),
        pa.field("test", pa.string(), nullable=False),  # fgvr.drift.parts.Compared
        ("statistic", pa.float64()),  # how large the change is, 0 … 1; null where nothing could be tested
        ("p", pa.float64()),  # of this test alone
        ("p_corrected", pa.float64()),  # by Holm, for all tests of all parts
        pa.field("alarm", pa.bool_(), nullable=False),
    ]
)

NOVEL = pa.schema(
    [
        IMAGE_ID,
        ("rank", pa.int32()),  # 1: the photo that fits worst
        ("fit", pa.float64()),  # as in DRIFT_SCORES
        ("distance", pa.float64()),
        ("label", pa.string()),  # predicted name, which is hardly right
        ("cluster", pa.int32()),  # 0 is the largest; −1: none
        ("similarity", pa.float32()),  # cosine to the cluster's centre
    ]
)

DETECTOR_TARGETS = pa.schema(
    [
        IMAGE_ID,
        ("objects", pa.int32()),  # boxes that were trained on; null when the row failed
        ("crowds", pa.int32()),  # boxes around crowds, which are not trained on
        ("aspects", pa.bool_()),  # p(yes) was available; otherwise only the boxes were learned
        ERROR,
    ]
)

DETECTIONS = pa.schema(
    [
        IMAGE_ID,
        ("boxes", pa.list_(pa.list_(pa.float32()))),  # (left, top, right, bottom) in pixels; null when the row failed
        ("label_ids", pa.list_(pa.int32())),  # index in the model's list of categories
        ("labels", pa.list_(pa.string())),  # their names
        ("scores", pa.list_(pa.float32())),  # descending
        ERROR,
    ]
)
