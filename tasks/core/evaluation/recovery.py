"""Measures of what an emulator gives away: the share of the full model's loss and of its scores that comes back."""

import math

from tasks.core.errors import InputError


def recovery_share(loss: float, full_loss: float, vocabulary: int) -> float:
    """Return (ln V - loss) / (ln V - full loss): 0 for guessing among V tokens alike, 1 for the full model.

    loss, full_loss: mean negative log-likelihood of a token in nats. Below 0 for a model that is worse than guessing;
    above 1 for one that is better than the full model on this text. A model that knows only how frequent each token is
    scores well above 0, so that shares are to be compared with that of the emulator as it is.

    Raises:
        InputError: when the full model is not better than guessing, so that nothing could come back.
    """
    guessing = math.log(vocabulary)
    if not full_loss < guessing:
        raise InputError(
            f"the full model's loss on the text is {full_loss:.4f} nats a token, not below the {guessing:.4f} of"
            " guessing: nothing can be recovered of it; give text of the kind that the model was trained on"
        )
    return (guessing - loss) / (guessing - full_loss)


def capability(score: float, full_score: float, higher_is_better: bool) -> float | None:
    """Return the zero-shot score as a share of the full model's (CPL, as in LLEOT, ACL 2026).

    Of a score that is better when it is lower, such as perplexity, the share is the other way round, so that 1 is the
    full model for both kinds. None where the divisor is not above zero.
    """
    above, below = (score, full_score) if higher_is_better else (full_score, score)
    return above / below if below > 0 else None
