"""What does energyd see of an ordinary PyTorch program?

A small causal transformer learns to write words backwards (`stone>enots`), for about as long as asked.
The only lines here that know of energy are `energy.run`, `run.stage`, `stage.count` and `run.metric`;
without a daemon the program runs just the same, unmeasured.

    python tests/hardware/small_program.py [--seconds 25] [--device auto|cpu|cuda] [--seed 0]
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Idle OpenMP threads spin by default, which costs power and, on a shared machine, time. libgomp reads
# this while torch is being imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import energyd_client as energy

LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
SYLLABLES: Final = [c + v for c in "bcdfghjklmnpqrstvwxyz" for v in "aeiou"]
PAD, ASK, END = 0, 1, 2  # then the letters
VOCABULARY: Final = 3 + len(LETTERS)
LONGEST: Final = 8  # letters, four syllables
LENGTH: Final = 2 * LONGEST + 2  # word, ASK, word backwards, END
CORPUS_WORDS: Final = 120_000
HELD_OUT: Final = 4_000


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How big model and corpus are: enough to keep the device busy, small enough to learn in seconds."""

    width: int
    layers: int
    heads: int
    batch: int
    words: int
    learning_rate: float


SHAPES: Final = {
    "cpu": Shape(width=64, layers=2, heads=4, batch=64, words=16_000, learning_rate=3e-3),
    "cuda": Shape(width=1024, layers=6, heads=16, batch=1024, words=48_000, learning_rate=3e-4),
}


class Block(nn.Module):
    """One pre-norm transformer layer with causal attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_a, self.norm_b = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x_BTC: Tensor) -> Tensor:  # B batch, T positions, C width, as in papers
        """Same shape out as in."""
        B, T, C = x_BTC.shape
        qkv = self.qkv(self.norm_a(x_BTC)).view(B, T, 3, self.heads, C // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTC = x_BTC + self.out(seen.transpose(1, 2).reshape(B, T, C))
        result: Tensor = x_BTC + self.mlp(self.norm_b(x_BTC))
        return result


class Transformer(nn.Module):
    """Token and position embeddings, blocks, logits over the vocabulary."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(VOCABULARY, shape.width), nn.Embedding(LENGTH, shape.width)
        self.blocks = nn.Sequential(*(Block(shape.width, shape.heads) for _ in range(shape.layers)))
        self.norm, self.head = nn.LayerNorm(shape.width), nn.Linear(shape.width, VOCABULARY)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits of the next token at each position."""
        at_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        logits: Tensor = self.head(self.norm(self.blocks(self.token(tokens_BT) + self.position(at_T))))
        return logits


def make_corpus(n_words: int, seed: int) -> str:
    """Running text of words that nobody has ever read: one to four random syllables each."""
    dice = torch.Generator().manual_seed(seed)
    words = []
    for n_syllables in torch.randint(1, LONGEST // 2 + 1, (n_words,), generator=dice).tolist():
        drawn = torch.randint(len(SYLLABLES), (n_syllables,), generator=dice).tolist()
        words.append("".join(SYLLABLES[i] for i in drawn))
    return " ".join(words)


def tokenise(words: list[str]) -> tuple[Tensor, Tensor]:
    """Tokens and labels, one row a word. A label is PAD where nothing is to be learnt."""
    tokens = torch.full((len(words), LENGTH), PAD)
    labels = torch.full((len(words), LENGTH), PAD)
    for row, word in enumerate(words):
        question = [3 + LETTERS.index(c) for c in word]
        line = [*question, ASK, *reversed(question), END]
        tokens[row, : len(line)] = torch.tensor(line)
        labels[row, len(word) : len(line) - 1] = torch.tensor(line[len(word) + 1 :])
    return tokens, labels


class Progress:
    """One line that rewrites itself on a terminal; a line per finished step elsewhere."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()

    def now(self, text: str) -> None:
        """Say where the program is; costs nothing where nobody watches."""
        if self.live:
            sys.stdout.write(f"\r\x1b[2K{text}")
            sys.stdout.flush()

    def done(self, text: str) -> None:
        """Say what is finished, for good."""
        sys.stdout.write(f"\r\x1b[2K{text}\n" if self.live else f"{text}\n")
        sys.stdout.flush()


def train(
    run: energy.Run,
    model: Transformer,
    shape: Shape,
    data: tuple[Tensor, Tensor],
    seconds: float,
    say: Progress,
) -> float:
    """Whole passes over the corpus until `seconds` are over; the mean loss (nats) of the last 50 steps."""
    tokens, labels = data
    device = tokens.device
    optimiser = torch.optim.AdamW(model.parameters(), lr=shape.learning_rate, weight_decay=0.01)
    start, epoch, step, spent = time.monotonic(), 0, 0, 0.0
    recent: list[float] = []
    while spent < seconds:
        epoch += 1
        with run.stage(f"epoch {epoch}") as stage:
            for rows in torch.split(torch.randperm(len(tokens), device=device), shape.batch):
                # Warm up for 20 steps, then down a cosine over the time that is left.
                rate = min(1.0, (step + 1) / 20) * (0.02 + 0.98 * math.cos(spent / seconds * math.pi / 2))
                for group in optimiser.param_groups:
                    group["lr"] = shape.learning_rate * rate
                with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                    logits = model(tokens[rows])
                    loss = F.cross_entropy(
                        logits.flatten(0, 1).float(), labels[rows].flatten(), ignore_index=PAD
                    )
                optimiser.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                stage.count(label=int((labels[rows] != PAD).sum()), positions=rows.numel() * LENGTH)
                step += 1
                recent = [*recent[-49:], loss.item()]
                spent = time.monotonic() - start
                words = f"train       epoch {epoch}  step {step}  loss {recent[-1]:.3f}"
                say.now(f"{words}  {spent:.0f}/{seconds:.0f} s")
                if spent >= seconds:
                    break
        say.done(f"train       epoch {epoch}  step {step}  loss {sum(recent) / len(recent):.3f}")
    return sum(recent) / len(recent)


@torch.no_grad()
def evaluate(model: Transformer, stage: energy.Stage, words: list[str], device: torch.device) -> float:
    """Share of `words` that the model writes backwards without a mistake, decoding greedily."""
    right = 0
    for size in sorted({len(w) for w in words}):
        group = [w for w in words if len(w) == size]
        asked, _ = tokenise(group)
        tokens = asked[:, : size + 1].to(device)
        for _ in range(size + 1):
            tokens = torch.cat([tokens, model(tokens)[:, -1].argmax(-1, keepdim=True)], dim=1)
        stage.count(generated=len(group) * (size + 1))
        right += int((tokens.cpu() == asked[:, : 2 * size + 2]).all(dim=1).sum())
    return right / len(words)


def main(argv: list[str] | None = None) -> int:
    """Run the program; 0 when it came to its end."""
    parser = argparse.ArgumentParser(
        prog="small_program.py",
        description="A small real training program, in measured stages.",
    )
    parser.add_argument("--seconds", type=float, default=25.0, help="about how long to run (default 25)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if options.seconds <= 0:
        parser.error("--seconds must be more than 0")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device here; leave the option out to use the CPU")
    kind = options.device
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    device, shape, say = torch.device(kind), SHAPES[kind], Progress()
    torch.manual_seed(options.seed)
    torch.set_num_threads(min(4, len(os.sched_getaffinity(0))))  # more threads than cores only wait

    with energy.run("demo", pipeline="reverse", device=kind, seed=options.seed) as run:
        with run.stage("prerun"):  # what the machine takes before there is work
            say.now("prerun      idle, for the baseline")
            time.sleep(options.seconds * 0.12)
        say.done(f"prerun      {options.seconds * 0.12:.1f} s idle")

        with run.stage("preprocess") as stage:
            say.now("preprocess  making a corpus and tokenising its words")
            corpus = make_corpus(int(CORPUS_WORDS * min(1.0, max(0.04, options.seconds / 25))), options.seed)
            words = list(dict.fromkeys(corpus.split()))  # different ones: held out is never trained on
            n_held_out = min(HELD_OUT, len(words) // 5)
            words = words[: shape.words + n_held_out]
            # The first words of the corpus hold all the short ones, which must be learnt: hold out the last.
            held_out, data = words[-n_held_out:], tokenise(words[:-n_held_out])
            stage.count(label=int((data[1] != PAD).sum()))
        say.done(f"preprocess  {len(words) - n_held_out} words to learn from, {n_held_out} held out")

        with run.stage("train"):
            model = Transformer(shape).to(device)
            placed = (data[0].to(device), data[1].to(device))
            loss = train(run, model, shape, placed, options.seconds * 0.72, say)
            with run.stage("checkpoint"), tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.pt"
                torch.save(model.state_dict(), path)
                size_mb = path.stat().st_size / 1e6
        say.done(f"checkpoint  {size_mb:.1f} MB")

        with run.stage("evaluate") as stage:
            say.now("evaluate    on words that it never saw")
            accuracy = evaluate(model.eval(), stage, held_out, device)
        run.metric("exact_match", accuracy, n=n_held_out)
        run.metric("loss", loss)
    say.done(
        f"evaluate    exact_match {accuracy:.3f} on {n_held_out} held-out words, training loss {loss:.3f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
