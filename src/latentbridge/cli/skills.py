"""The verbs that use a model on one picture or prompt: understand, generate, edit, embed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from latentbridge.cli.arguments import (
    PICTURE_KINDS,
    PICTURE_SUFFIXES,
    AsJson,
    Device,
    Guidance,
    ModelName,
    OutPicture,
    Seed,
    Steps,
    check_out,
    check_sampling,
)
from latentbridge.errors import UserError
from latentbridge.prompts import CAPTION_REQUEST, check_text

ImagePath = Annotated[Path, typer.Argument(metavar="IMAGE", help=PICTURE_KINDS)]


def understand(
    image: ImagePath,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask.")] = CAPTION_REQUEST,
    reason: Annotated[bool, typer.Option("--reason", help="Ask for the steps before the answer.")] = False,
    model: ModelName = "tiny",
    device: Device = "cpu",
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
    from latentbridge.cli.loading import open_model

    seer = open_model(model, device, draws=False)
    answer = seer.understand(picture, question, reasoning=reason)
    warnings = [*seer.input_check.picture_warnings(picture), *seer.input_check.text_warnings(question)]
    if as_json:
        print_json({"image": image, "question": question, "answer": answer, "warnings": warnings})
    else:
        print_warnings(warnings)
        print(answer)


def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw.")],
    out: OutPicture,
    seed: Seed = 7,
    steps: Steps = 20,
    guidance: Guidance = 2.5,
    model: ModelName = "tiny",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Draw a picture from words.

    The shipped model draws scenes of one to four coloured shapes, and forty simple things such as an apple or a crown, at
    64 x 64 px; a warning tells when a prompt is outside of these.

    \b
    Examples:
      latentbridge generate "a red circle left of a blue star" --out out.png
      latentbridge generate "three green squares" --out out.png --seed 8 --steps 40
      latentbridge generate "three green squares" --out out.png --device cuda
    """
    check_text("prompt", prompt)
    check_sampling(seed, steps, guidance)
    check_out(out, PICTURE_SUFFIXES)
    from latentbridge.cli.loading import open_model
    from latentbridge.cli.output import print_json, print_warnings, save_picture
    from latentbridge.models.input_check import Use

    painter = open_model(model, device)
    description = painter.rewrite(prompt, seed)
    save_picture(painter.generate(description, seed, steps=steps, guidance=guidance, rewrite=False), out)
    check = painter.input_check
    warnings = [*check.text_warnings(prompt, Use.PROMPT), *check.description_warnings(prompt, description)]
    if as_json:
        settings = {"seed": seed, "steps": steps, "guidance": guidance}
        print_json({"prompt": prompt, "description": description, **settings, "out": out, "warnings": warnings})
    else:
        print_warnings(warnings)
        print(f"{out}: {description}")


def edit(
    image: ImagePath,
    instruction: Annotated[str, typer.Argument(metavar="INSTRUCTION", help="What to change.")],
    out: OutPicture,
    seed: Seed = 7,
    steps: Steps = 20,
    guidance: Guidance = 2.5,
    method: Annotated[
        str, typer.Option("--method", help='"masked", or "reference": drawn anew, as the released OmniBridge does.')
    ] = "masked",
    model: ModelName = "tiny",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Change a picture as told, and keep the rest.

    The picture comes back at the model's size, which is 64 x 64 px for the shipped one. That knows small scenes of coloured
    shapes and simple drawings; a warning tells when a picture or a word is outside of these.

    \b
    Examples:
      latentbridge edit picture.png "make the circle green" --out out.png
      latentbridge edit picture.png "remove the star" --out out.png --json
      latentbridge edit picture.png "remove the star" --out out.png --method reference
    """
    check_text("instruction", instruction)
    check_sampling(seed, steps, guidance)
    check_out(out, PICTURE_SUFFIXES)
    from latentbridge.cli.output import print_json, print_warnings, save_picture
    from latentbridge.images import open_picture

    picture = open_picture(image)
    from latentbridge.cli.loading import open_model
    from latentbridge.models.input_check import Use, size_warnings

    how: Any = method  # a misspelt one is the model's to refuse
    editor = open_model(model, device)
    trace = editor.trace_edit(picture, instruction, seed, steps=steps, guidance=guidance, method=how)
    save_picture(trace.picture, out)
    warnings = [
        *editor.input_check.picture_warnings(picture),
        *size_warnings(picture, len(trace.picture)),
        *editor.input_check.text_warnings(instruction, Use.INSTRUCTION),
    ]
    if as_json:
        settings = {"seed": seed, "steps": steps, "guidance": guidance}
        words = {"before": trace.before, "after": trace.after, "changed_share": round(float(trace.mask.mean()), 4)}
        print_json({"image": image, "instruction": instruction, **words, **settings, "out": out, "warnings": warnings})
    else:
        print_warnings(warnings)
        print(f"before: {trace.before}\nafter:  {trace.after}\n{out}")


def embed(
    images: Annotated[list[Path] | None, typer.Argument(metavar="IMAGES", help="Pictures.")] = None,
    text: Annotated[list[str] | None, typer.Option("--text", help="A text; may be given several times.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The .npz file to write.")] = None,
    model: ModelName = "tiny",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Turn pictures and texts into vectors.

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
    from latentbridge.cli.loading import open_model

    embedder = open_model(model, device, draws=False)
    none = np.zeros((0, embedder.embedding_size), dtype=np.float32)
    of_images = np.concatenate([none, *(embedder.embed(images=picture)[None] for picture in pictures)])
    of_texts = np.concatenate([none, *(embedder.embed(texts=item)[None] for item in texts)])
    names = [str(path) for path in images]
    warnings = embedder.input_check.warnings_by_name(dict(zip(names, pictures, strict=True)), texts)
    if out:
        with atomic_write(out) as temporary, temporary.open("wb") as file:
            np.savez(file, images=of_images, texts=of_texts, image_names=np.array(names), text_names=np.array(texts))
        print_warnings(warnings)
        print(f"{out}: {len(images)} pictures and {len(texts)} texts, {none.shape[1]} numbers each")
    else:
        document = {
            "images": [{"image": n, "embedding": v.tolist()} for n, v in zip(names, of_images, strict=True)],
            "texts": [{"text": t, "embedding": v.tolist()} for t, v in zip(texts, of_texts, strict=True)],
            "warnings": warnings,
        }
        print_json(document)
