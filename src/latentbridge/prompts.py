"""Prompt templates shared by training data and inference."""

from __future__ import annotations

from dataclasses import dataclass
from unicodedata import category

from latentbridge.errors import UserError

IMG_START, IMG_END = "<img>", "</img>"
"""Special tokens around a description to draw (spec 2.2 step 3)."""

CAPTION_REQUEST = "Describe the picture."
NAME_REQUEST = "What is this?"
REASONING_REQUEST = "Think step by step."
LONG_REASONING_REQUEST = "Reason at length."

MAX_CHARACTERS = 1_000
"""Largest length of a prompt, question or instruction."""


def check_text(kind: str, text: str, max_characters: int = MAX_CHARACTERS) -> None:
    """Raise UserError if a text is empty, too long, or has control characters, which terminals interpret."""
    if not text.strip():
        raise UserError(f"The {kind} is empty; say in a few words what you want.")
    if len(text) > max_characters:
        raise UserError(f"The {kind} has {len(text):,} characters; {max_characters:,} are the most, so shorten it.")
    for position, character in enumerate(text):
        if category(character) in ("Cc", "Cs") and character not in "\n\r\t":
            raise UserError(f"The {kind} has a control character (U+{ord(character):04X}) at {position}; leave it out.")


@dataclass(frozen=True)
class Templates:
    """The requests that a model was trained on; "{}" stands for the user's words."""

    rewrite: str = "Draw: {}"
    edit: str = "Edit: {}"
    reasoning: str = f"{{}} {REASONING_REQUEST}"

    def rewrite_request(self, prompt: str) -> str:
        """Return the request to rewrite a prompt as a complete description to draw."""
        return self.rewrite.replace("{}", prompt)

    def edit_request(self, instruction: str) -> str:
        """Return the request for the description after an edit; the picture comes first."""
        return self.edit.replace("{}", instruction)

    def with_reasoning(self, question: str) -> str:
        """Return the question with a request to reason step by step."""
        return self.reasoning.replace("{}", question)


BUILT = Templates()
"""The requests of models trained here."""
OMNIBRIDGE_RELEASE = Templates(
    rewrite=(
        'Please rewrite the image caption of "{}". Generate a single-paragraph English image description (under 70 words) '
        "that professionally and concisely identifies: 1) Object types with exact counts. 2) Distinct color attributes bound "
        "to specific objects. 3) Clear spatial positioning. 4) Explicit property-object associations. Ensure visual "
        "unambiguity through absolute color assignments (e.g., '[color] [object]') and positional clarity "
        "(left/right/foreground/background). Exclude interpretations, metaphors, and subjective terms. Example structure: 'A "
        "[position] [color] [object] adjacent to a [position] [color] [object]...' with strict property binding. 5) There is "
        "no need to repeat an instruction. No additional output is required."
    ),
    edit=(
        "Please generate a new description (under 80 words) for the image based on the provided instruction. The description "
        "should reflect the changes as specified, without mentioning the instruction itself. Focus on accurately describing "
        "the updated visual content while ensuring clarity and detail. Do not reference the instruction used to modify the "
        "image in the final description.\n\n\nModification instruction: \n{}"
    ),
    reasoning=(
        "Generate an image description based on the question.\nThen, provide a rationale to analyze the question.\nNext, "
        "generate a step-by-step reasoning process to solve the problem. Ensure the steps are logical and concise.\nFinally, "
        "provide a concise summary of the final answer in the following format: 'The final answer is: xxx.\n\nFormat your "
        "response with the following sections, separated by ###:\n### Image Description:\n### Rationales:\n### Let's think "
        "step by step.\n### Step 1:\n### Step 2:\n...\n### The final answer is: \n\n{}"
    ),
)
"""The prompts of OmniBridge-8B, verbatim from the scripts of xiao-xt/OmniBridge at 54a5878; the missing quote is theirs."""


def draw_request(prompt: str) -> str:
    """Return the request of training data to rewrite a prompt as a complete description to draw."""
    return BUILT.rewrite_request(prompt)


def edit_request(instruction: str) -> str:
    """Return the request of training data for the description after an edit; the picture comes first."""
    return BUILT.edit_request(instruction)


def wrap_description(description: str) -> str:
    """Return a description inside `<img>...</img>`."""
    return f"{IMG_START}{description}{IMG_END}"


def unwrap_description(reply: str) -> str:
    """Return the description inside `<img>...</img>`, or the whole reply if there is none."""
    return reply.partition(IMG_START)[2].partition(IMG_END)[0] or reply


def with_reasoning(question: str) -> str:
    """Return the question with a request to think step by step."""
    return BUILT.with_reasoning(question)


def with_long_reasoning(question: str) -> str:
    """Return the question with a request for a reasoning chain (`data/reasoning.py`)."""
    return f"{question} {LONG_REASONING_REQUEST}"
