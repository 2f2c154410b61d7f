"""Turn instruction rows (`instruction`, `input`, `output`) into prompts and answers."""

from dataclasses import dataclass

NEEDED = ("instruction", "output")
OPTIONAL = ("input",)


@dataclass(frozen=True)
class Template:
    """Wording of a prompt with and without an input, and the delimiter between prompt and answer."""

    with_input: str
    without_input: str
    delimiter: str

    def render(self, fields: dict[str, str]) -> tuple[str, str]:
        """Return (prompt, answer) of one row whose fields are text (see `rows.text_rows`)."""
        instruction, context = fields["instruction"].strip(), fields.get("input", "").strip()
        wording = self.with_input if context else self.without_input
        # Not str.format: a row may contain braces.
        prompt = wording.replace("<instruction>", instruction).replace("<input>", context)
        return prompt, self.delimiter + fields["output"].strip()


TEMPLATES = {
    "default": Template(
        with_input="Instruction: <instruction>\nInput: <input>\nAnswer:",
        without_input="Instruction: <instruction>\nAnswer:",
        delimiter=" ",
    ),
    # The user's turn of a chat.
    "chat": Template(with_input="<instruction>\n\n<input>", without_input="<instruction>", delimiter=""),
    # Taori et al. 2023, Stanford Alpaca (https://github.com/tatsu-lab/stanford_alpaca), which the published code uses.
    "reference": Template(
        with_input=(
            "Below is an instruction that describes a task, paired with an input that provides further context. "
            "Write a response that appropriately completes the request.\n\n"
            "### Instruction:\n<instruction>\n\n### Input:\n<input>\n\n### Response:"
        ),
        without_input=(
            "Below is an instruction that describes a task. "
            "Write a response that appropriately completes the request.\n\n"
            "### Instruction:\n<instruction>\n\n### Response:"
        ),
        delimiter="",
    ),
}
