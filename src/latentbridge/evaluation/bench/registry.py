"""The benchmarks by name: what `latentbridge bench --list` tells, and where each is implemented."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from latentbridge.errors import unknown_name

if TYPE_CHECKING:
    from latentbridge.evaluation.bench.benchmark import Benchmark

Need = Literal["detector", "colours", "encoder", "vqa", "judge"]
"""A model beside the one under test, named by the option --NEED."""


@dataclass(frozen=True)
class Card:
    """Facts about a benchmark that a researcher needs before it runs."""

    title: str
    format: str
    """Files that --data must hold."""
    size: str
    licence: str
    """As its authors state it."""
    citation: str
    skill: Literal["understand", "generate", "edit", "embed"]
    """Skill that the model must have."""
    implementation: str
    """Module of this package, and class or factory in it, with an argument after a second colon."""
    needs: tuple[Need, ...] = ()
    deviations: str = ""
    """Differences of the scores from those of the authors' own code."""

    @property
    def needs_judge(self) -> bool:
        return "judge" in self.needs


BENCHMARKS: dict[str, Card] = {
    "mme": Card(
        "MME",
        "14 task folders with TASK/*.txt and pictures, or TASK.txt files",
        "2,374 questions, 1,187 pictures",
        "research only; pictures as of their sources",
        "arXiv:2306.13394",
        "understand",
        "mme:Mme",
        deviations="a question without a picture stays in its pair and counts as 0",
    ),
    "pope": Card(
        "POPE",
        "coco_pope_{random,popular,adversarial}.json (lines) and COCO val2014 pictures, or Parquet",
        "9,000 questions, 500 pictures",
        "MIT; pictures: COCO terms",
        "arXiv:2305.10355",
        "understand",
        "pope:Pope",
        deviations="a reply with neither yes nor no counts as 0, not as yes",
    ),
    "mmbench": Card(
        "MMBench",
        "MMBench_DEV_EN.tsv or another split with answers (VLMEvalKit)",
        "4,329 rows of dev EN: 1,164 questions, rotated",
        "Apache-2.0",
        "arXiv:2307.06281",
        "understand",
        "mmbench:MmBench",
        deviations="answers by rules (VLMEvalKit's exact matching); unread replies are never guessed",
    ),
    "mmstar": Card(
        "MMStar",
        "MMStar.tsv (VLMEvalKit) or the authors' Parquet",
        "1,500 questions",
        "see its authors",
        "arXiv:2403.20330",
        "understand",
        "mmbench:MmStar",
    ),
    "scienceqa": Card(
        "ScienceQA, test",
        "problems.json with images/test/ID/, or Parquet",
        "4,241 questions, 2,017 with a picture",
        "CC BY-NC-SA 4.0",
        "arXiv:2209.09513",
        "understand",
        "science:ScienceQa",
    ),
    "ai2d": Card(
        "AI2D, test",
        "Parquet with question, options, answer, image, or AI2D_TEST.tsv (VLMEvalKit)",
        "3,088 questions",
        "CC BY-SA",
        "arXiv:1603.07396",
        "understand",
        "science:Ai2d",
    ),
    "m3cot": Card(
        "M3CoT, test",
        "test.jsonl and pictures, or Parquet",
        "about 2,300 questions",
        "see its authors",
        "arXiv:2405.16473",
        "understand",
        "science:M3Cot",
    ),
    "mmmu": Card(
        "MMMU, validation",
        "Parquet per subject",
        "900 questions in 30 subjects",
        "Apache-2.0",
        "arXiv:2311.16502",
        "understand",
        "mmmu:Mmmu",
        deviations="a reply without a letter counts as 0, where the authors' code draws one at random",
    ),
    "mathvista-mc": Card(
        "MathVista testmini, multiple choice by rules",
        "Parquet",
        "540 of 1,000 questions",
        "CC BY-SA 4.0",
        "arXiv:2310.02255",
        "understand",
        "mathvista:MathVistaChoices",
        deviations="rules only: no judge, no nearest option",
    ),
    "flickr30k": Card(
        "Flickr30K retrieval, Karpathy's test split",
        "dataset_flickr30k.json and the pictures",
        "1,000 pictures, 5,000 captions",
        "research only (Flickr terms)",
        "arXiv:1505.04870",
        "embed",
        "captions:Karpathy:flickr30k",
        deviations="of equal similarities negatives go first",
    ),
    "coco": Card(
        "COCO retrieval, Karpathy's 5K test split",
        "dataset_coco.json and COCO val2014 pictures",
        "5,000 pictures, 25,000 captions (five each)",
        "CC BY 4.0; pictures: Flickr terms",
        "arXiv:1412.2306",
        "embed",
        "captions:Karpathy:coco",
        deviations="of equal similarities negatives go first",
    ),
    "eccv-caption": Card(
        "ECCV Caption",
        "eccv_image_to_caption.json, eccv_caption_to_image.json, dataset_coco.json, val2014 pictures; coco_test_ids.npy",
        "1,332 caption and 1,261 picture queries among COCO's 5K",
        "MIT; pictures: Flickr terms",
        "arXiv:2204.03359",
        "embed",
        "captions:EccvCaption",
        deviations="of equal similarities negatives go first",
    ),
    "cirr": Card(
        "CIRR, validation",
        "cap.rc2.val.json, split.rc2.val.json and the NLVR2 pictures",
        "4,181 queries among 2,297 pictures",
        "MIT; pictures as of NLVR2",
        "arXiv:2108.04024",
        "embed",
        "composed:Cirr",
        deviations="of equal similarities negatives go first",
    ),
    "fashioniq": Card(
        "FashionIQ, validation",
        "cap.KIND.val.json, split.KIND.val.json for dress, shirt, toptee, and the pictures",
        "6,016 queries in three galleries",
        "CDLA-Permissive-1.0; pictures: Amazon terms",
        "arXiv:1905.12794",
        "embed",
        "composed:FashionIq",
        deviations="of equal similarities negatives go first",
    ),
    "geneval": Card(
        "GenEval",
        "evaluation_metadata.jsonl",
        "553 prompts, four pictures each",
        "MIT",
        "arXiv:2310.11513",
        "generate",
        "geneval:GenEval",
        ("detector", "colours"),
        "a transformers detector in mmdet's place; its confidence shifts scores, so it is named",
    ),
    "geneval2": Card(
        "GenEval 2, Soft-TIFA",
        "geneval2_data.jsonl",
        "800 prompts",
        "CC BY-NC 4.0",
        "arXiv:2512.16853",
        "generate",
        "asked:GenEval2",
        ("vqa",),
        "any VQA model; probabilities of whole answers among those possible",
    ),
    "dpg-bench": Card(
        "DPG-Bench",
        "dpg_bench.csv",
        "1,065 prompts, four pictures each",
        "Apache-2.0",
        "arXiv:2403.05135",
        "generate",
        "asked:DpgBench",
        ("vqa",),
        "any VQA model in mPLUG's place; the first row counts, categories are over all pictures with dependencies",
    ),
    "mjhq": Card(
        "MJHQ-30K, Fréchet distance",
        "meta_data.json and mjhq30k_imgs/CATEGORY/ID.jpg",
        "30,000 prompts and pictures",
        "see its authors",
        "arXiv:2402.17245",
        "generate",
        "mjhq:Mjhq",
        ("encoder",),
        "named after the features it takes; only Inception's would be the usual FID",
    ),
    "unified-bench": Card(
        "Unified-Bench (UAE)",
        "Image/ with pictures",
        "as many as the folder has",
        "see its authors",
        "arXiv:2509.09666",
        "generate",
        "unified_bench:UnifiedBench",
        ("encoder",),
        "our own wording of the caption request; a picture not redrawn counts as 0",
    ),
    "realunify-direct": Card(
        "RealUnify, generation enhances understanding, direct",
        "GEU_direct.json and image/",
        "400 questions",
        "academic research only",
        "arXiv:2509.24897",
        "understand",
        "realunify:RealUnify:direct",
        deviations="letters within words do not count as answers",
    ),
    "realunify-step": Card(
        "RealUnify, generation enhances understanding, stepwise",
        "GEU_step.json and image/",
        "400 edits and questions",
        "academic research only",
        "arXiv:2509.24897",
        "edit",
        "realunify:RealUnify:step",
        deviations="letters within words do not count as answers",
    ),
    "wise": Card(
        "WISE, release of 2025",
        "cultural_common_sense.json, natural_science.json, spatio-temporal_reasoning.json",
        "1,000 prompts",
        "see its authors",
        "arXiv:2503.07265",
        "generate",
        "judged_pictures:Wise",
        ("judge",),
        "our wording of the judge's request; an answer that cannot be read counts as 0, not as 4.95",
    ),
    "wise-verified": Card(
        "WISE_Verified, release of 2026",
        "the same names ending in _verified.json",
        "1,000 prompts",
        "see its authors",
        "arXiv:2503.07265",
        "generate",
        "judged_pictures:Wise:verified",
        ("judge",),
        "our wording of the judge's request",
    ),
    "imgedit": Card(
        "ImgEdit-Bench, basic",
        "basic_edit.json, prompts.json and the pictures",
        "737 edits of nine types",
        "see its authors",
        "arXiv:2505.20275",
        "edit",
        "judged_pictures:ImgEdit",
        ("judge",),
        "the three grades must all be there; a missing picture or grade counts as 0",
    ),
    "gedit": Card(
        "GEdit-Bench",
        "Parquet",
        "1,212 edits in eleven groups and two languages",
        "see its authors",
        "arXiv:2504.17761",
        "edit",
        "judged_pictures:GEdit",
        ("judge",),
        "our wording of the judge's requests",
    ),
    "ueval": Card(
        "UEval",
        "Parquet (zlab-princeton/UEval)",
        "1,000 questions in eight tasks",
        "see its authors",
        "arXiv:2601.22155",
        "generate",
        "judged_pictures:UEval",
        ("judge",),
        "our wording of the judge's requests; one picture per answer",
    ),
    "mm-vet": Card(
        "MM-Vet",
        "mm-vet.json and images/",
        "218 questions",
        "Apache-2.0",
        "arXiv:2308.02490",
        "understand",
        "judged_answers:MmVet",
        ("judge",),
        "our wording of the judge's request, without examples; one run",
    ),
    "mathvista": Card(
        "MathVista testmini",
        "Parquet",
        "1,000 questions",
        "CC BY-SA 4.0",
        "arXiv:2310.02255",
        "understand",
        "judged_answers:MathVista",
        ("judge",),
        "our wording of the judge's request; an extracted answer that is no option is not replaced by the nearest",
    ),
}


def card(name: str) -> Card:
    """Return the card of a benchmark; raise UserError for an unknown name."""
    if name not in BENCHMARKS:
        raise unknown_name("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name]


def make_benchmark(name: str) -> Benchmark[Any]:
    """Return the benchmark of a name."""
    module, attribute, *arguments = card(name).implementation.split(":")
    return getattr(import_module(f"latentbridge.evaluation.bench.{module}"), attribute)(*arguments)
