"""The commands that run a model on one image or prompt: understand, generate, edit, embed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentbridge.cli.arguments import (
    PICTURE_KINDS,
    PICTURE_SUFFIXES,
    AsJson,
    ModelName,
    OutPicture,
    Seed,
    check_out,
)
from latentbridge.cli.drawing import Guidance, Options, Size, Steps, drawing_options
from latentbridge.cli.loading import AS_RELEASED, Loading, with_loading_flags
from latentbridge.config import to_dict
from latentbridge.errors import UserError
from latentbridge.prompts import CAPTION_REQUEST, check_text

ImagePath = Annotated[Path, typer.Argument(metavar="IMAGE", help=PICTURE_KINDS)]


@with_loading_flags
def understand(
    image: ImagePath,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask.")] = CAPTION_REQUEST,
    reason: Annotated[bool, typer.Option("--reason", help="Ask for the steps before the answer.")] = False,
    model: ModelName = "tiny",
    loading: Loading = AS_RELEASED,
    as_json: AsJson = False,
) -> None:
    """Describe a picture, or answer a question about it.

    The shipped model knows small scenes of coloured shapes and simple drawings, at 64 x 64 px; a warning tells when a
    picture or a word is outside of these.

    \b
    Examples:
      latentbridge understand drawing.png
      latentbridge understand drawing.png "How many apples are there?"
      latentbridge understand drawing.png "Is the star above the cross?" --reason
      latentbridge understand drawing.png --json
    """
    check_text("question", question)
    from latentbridge.cli.output import print_json, print_warnings
    from latentbridge.images import open_picture

    picture = open_picture(image)

    loaded = loading.open(model, draws=False)
    answer = loaded.understand(picture, question, reasoning=reason)
    check = loaded.input_check
    warnings = [*check.picture_warnings(picture), *check.text_warnings(question)]
    if as_json:
        print_json({"image": image, "question": question, "answer": answer, "warnings": warnings})
    else:
        print_warnings(warnings)
        print(answer)


@with_loading_flags
def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw.")],
    out: OutPicture,
    seed: Seed = 7,
    steps: Steps = None,
    guidance: Guidance = None,
    size: Size = None,
    option: Options = None,
    model: ModelName = "tiny",
    loading: Loading = AS_RELEASED,
    as_json: AsJson = False,
) -> None:
    """Generate a picture from a prompt.

    The shipped model draws scenes of one to four coloured shapes, and forty simple things such as a red apple or a crown, at
    64 x 64 px; a warning tells when a prompt is outside of these.

    \b
    Examples:
      latentbridge generate "a red circle left of a blue star" --out out.png
      latentbridge generate "three green squares" --out out.png --seed 8 --steps 40
      latentbridge generate "three green squares" --out out.png --device cuda
    """
    check_text("prompt", prompt)
    options = drawing_options(seed, steps, guidance, size, option)
    check_out(out, PICTURE_SUFFIXES)
    from latentbridge.cli.output import print_json, print_warnings, save_picture
    from latentbridge.models.input_check import WordUse
    from latentbridge.models.options import with_options

    loaded = loading.open(model)
    result = loaded.generate(prompt, seed, **options)
    save_picture(result.picture, out)
    check, description = loaded.input_check, result.description
    warnings = [*check.text_warnings(prompt, WordUse.PROMPT), *check.description_warnings(prompt, description)]
    if as_json:
        settings = {"seed": seed, **to_dict(with_options(loaded.drawing_options, options))}
        print_json({"prompt": prompt, "description": description, **settings, "out": out, "warnings": warnings})
    else:
        print_warnings(warnings)
        print(f"{out}: {description}")


@with_loading_flags
def edit(
    image: ImagePath,
    instruction: Annotated[str, typer.Argument(metavar="INSTRUCTION", help="What to change.")],
    out: OutPicture,
    seed: Seed = 7,
    steps: Steps = None,
    guidance: Guidance = None,
    size: Size = None,
    option: Options = None,
    model: ModelName = "tiny",
    loading: Loading = AS_RELEASED,
    as_json: AsJson = False,
) -> None:
    """Edit a picture by an instruction; the rest stays as it is.

    The picture comes back at its own size, with its own pixels wherever nothing changes; the shipped model draws the change
    at 64 x 64 px. It knows small scenes of coloured shapes and simple drawings; a warning tells when a picture or a word is
    outside of these.

    \b
    Examples:
      latentbridge edit picture.png "make the circle green" --out out.png
      latentbridge edit picture.png "remove the star" --out out.png --json
      latentbridge edit picture.png "remove the star" --out out.png --option method=reference
    """
    check_text("instruction", instruction)
    options = drawing_options(seed, steps, guidance, size, option)
    check_out(out, PICTURE_SUFFIXES)
    from latentbridge.cli.output import print_json, print_warnings, save_picture
    from latentbridge.images import open_picture

    picture = open_picture(image)
    from latentbridge.models.input_check import WordUse, size_warnings
    from latentbridge.models.options import with_options

    loaded = loading.open(model)
    result = loaded.edit(picture, instruction, seed, **options)
    save_picture(result.picture, out)
    check = loaded.input_check
    warnings = [
        *check.picture_warnings(picture),
        *size_warnings(picture, result.picture, None if result.mask is None else loaded.drawing_size_px),
        *check.text_warnings(instruction, WordUse.INSTRUCTION),
    ]
    if as_json:
        settings = {"seed": seed, **to_dict(with_options(loaded.edit_options, options))}
        share = 1.0 if result.mask is None else round(float(result.mask.mean()), 4)
        words = {"before": result.before, "after": result.after, "changed_share": share}
        print_json({"image": image, "instruction": instruction, **words, **settings, "out": out, "warnings": warnings})
    else:
        print_warnings(warnings)
        described = f"before: {result.before}\nafter:  {result.after}\n" if result.after else ""
        print(f"{described}{out}")


@with_loading_flags
def embed(
    images: Annotated[list[Path] | None, typer.Argument(metavar="IMAGES", help="Pictures.")] = None,
    text: Annotated[list[str] | None, typer.Option("--text", help="A text; may be given several times.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The .npz file to write.")] = None,
    model: ModelName = "tiny",
    loading: Loading = AS_RELEASED,
    as_json: AsJson = False,
) -> None:
    """Embed pictures and texts as vectors.

    They are unit vectors of one space. The .npz file holds `images` and `texts` (float32, one row each) and their names.

    \b
    Examples:
      latentbridge embed a.png b.png --text "a red circle" --out vectors.npz
      latentbridge embed --text "a sea animal" --json
    """
    images, texts = images or [], text or []
    if not images and not texts:
        raise UserError("There is nothing to embed; name pictures, or give texts with --text.")
    if (out is None) == (not as_json):
        raise UserError("Say where the vectors go: either --out vectors.npz or --json.")
    for item in texts:
        check_text("text", item)
    if out:
        check_out(out, (".npz",))
    import numpy as np

    from latentbridge.cli.output import print_json, print_warnings
    from latentbridge.files import atomic_write
    from latentbridge.images import open_picture

    pictures = [open_picture(path) for path in images]

    loaded = loading.open(model, draws=False)
    loaded.require("embed")
    empty = np.zeros((0, loaded.embedding_size), dtype=np.float32)
    image_vectors = np.concatenate([empty, *(loaded.embed(images=picture)[None] for picture in pictures)])
    text_vectors = np.concatenate([empty, *(loaded.embed(texts=item)[None] for item in texts)])
    names = [str(path) for path in images]
    warnings = loaded.input_check.warnings_by_name(dict(zip(names, pictures, strict=True)), texts)
    if out:
        with atomic_write(out) as temporary, temporary.open("wb") as file:
            np.savez(
                file, images=image_vectors, texts=text_vectors, image_names=np.array(names), text_names=np.array(texts)
            )
        print_warnings(warnings)
        print(f"{out}: {len(images)} pictures and {len(texts)} texts, {empty.shape[1]} numbers each")
    else:
        document = {
            "images": [{"image": n, "embedding": v.tolist()} for n, v in zip(names, image_vectors, strict=True)],
            "texts": [{"text": t, "embedding": v.tolist()} for t, v in zip(texts, text_vectors, strict=True)],
            "warnings": warnings,
        }
        print_json(document)
