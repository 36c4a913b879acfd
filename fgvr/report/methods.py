"""The compared methods and metrics in words, the same in the console table and on the page."""

from __future__ import annotations

METHOD_TITLES = {
    "mllm": "MLLM",
    "zs_clip": "ZS-CLIP",
    "zs_wordnet": "ZS-CLIP-WordNet",
    "cased": "CaSED",
    "prototypes": "Prototypes",
    "finer": "FineR",
    "findr": "FiNDR-style",
    "near": "NeaR",
    "base": "Student",
    "makd": "Student + aspects",
}
METHOD_MEANINGS = {
    "mllm": "the multimodal LLM names every image itself: the most expensive way",
    "zs_clip": "CLIP without training picks among the names that the MLLM gave",
    "zs_wordnet": "CLIP without training picks among all nouns of WordNet",
    "cased": "words from the captions nearest to the image, chosen by image and captions (CaSED)",
    "prototypes": "70% a name's text and 30% the mean of the images that vote for it, names from the MLLM",
    "finer": "such prototypes of names that a language model gave for the MLLM's answers to questions",
    "findr": "such prototypes of names that the MLLM gave when it was asked as an expert",
    "near": "CLIP with a prompt learned on candidate sets of neighbours' labels",
    "base": "a small network trained on class targets only",
    "makd": "the same network, taught the answers to aspect questions as well (MaKD)",
}
METRIC_TITLES = {"sacc": "sACC", "cacc": "cACC", "siou": "sIoU", "top1": "top-1"}
METRIC_MEANINGS = {
    "sacc": "similarity in meaning of predicted and true name (cosine of Sentence-BERT vectors, × 100)",
    "cacc": "images whose name stands for their class, after the best one-to-one match of names to classes",
    "siou": "words that the predicted name shares with the true one",
    "top1": "images whose predicted name is the true one (case and punctuation apart)",
}
FAILURE_MEANINGS = {
    "not_found": "nothing is at the URI",
    "unreadable": "no permission, no connection, or a folder where a file should be",
    "not_allowed": "the policy of ingest.limits (web, allowed_roots), or of what is read from, forbids the address",
    "empty_file": "the file has no bytes",
    "too_many_bytes": "the file is larger than the limit, and was not read",
    "too_many_pixels": "the image is larger than the limit, and was not decoded",
    "corrupt": "an image, but truncated or damaged",
    "not_an_image": "no image format that is read here",
    "wrong_size": "its boxes were drawn on an image of another size",
    "refused": "the model answered that it cannot or will not say",
    "empty_answer": "no name was found in the answer, or it was cut off before one",
    "nothing_there": "the model answered that the photo shows no such thing",
    "other_language": "the model answered with a sentence in a language that is not read",
    "no_label_mass": "neither yes nor no was a probable answer",
    "request_rejected": "the engine did not take the request",
    "engine_error": "the engine or server failed on this request",
    "no_input": "an earlier stage failed on this row",
}
