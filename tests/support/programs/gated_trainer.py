"""A training program of the standard library that can misbehave, and that waits at gates.

It prints dict lines as the Hugging Face Trainer does, and writes a checkpoint after each epoch. A
gate is a phase at which the program waits until a file `open-PHASE` is in the folder of the gates.
`starts.txt` there gets a line for each start, and `PHASE.reached` says that the program waits.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time

STEPS = 4
"""How many steps an epoch has."""

SLEEP_FOR_EVER = [sys.executable, "-S", "-E", "-c", "import signal, time\nwhile True: time.sleep(3600)"]


def main() -> None:
    options = parsed()
    trainer = Trainer(options)
    if options.behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.behaviour == "family":
        start_family()
    trainer.gate("start")
    if options.behaviour == "silent":
        return
    trainer.train()


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epoch-seconds", type=float, default=0.0)
    parser.add_argument("--behaviour", default="good")
    parser.add_argument("--gates", help="the folder of the gates; without it the program never waits")
    parser.add_argument("--gate", default="", help="the phase at which to wait")
    parser.add_argument("--resume")
    return parser.parse_args()


class Trainer:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.first = 0
        if options.resume:
            with open(os.path.join(options.resume, "state.json"), encoding="utf-8") as stream:
                self.first = json.load(stream)["epoch"]
        if options.gates:
            with open(os.path.join(options.gates, "starts.txt"), "a", encoding="utf-8") as stream:
                stream.write(json.dumps({"pid": os.getpid(), "output": options.output, "first": self.first}) + "\n")

    def train(self) -> None:
        for epoch in range(self.first, self.options.epochs):
            for step in range(STEPS):
                time.sleep(self.options.epoch_seconds / STEPS)
                self.misbehave(epoch)
                if step == STEPS // 2:
                    self.gate("before-number")
                    place = {"epoch": epoch + (step + 1) / STEPS, "step": epoch * STEPS + step}
                    self.report(loss=self.loss(epoch, step), **place)
                    self.gate("loop" if epoch else "")
            self.report(
                eval_loss=self.loss(epoch, STEPS), eval_accuracy=0.5, epoch=float(epoch + 1), step=(epoch + 1) * STEPS
            )
            self.gate("middle")
            self.save(epoch)
            self.misbehave_after(epoch)

    def loss(self, epoch: int, step: int) -> float:
        """Return a loss that falls, and that the learning rate and the seed decide."""
        if self.options.behaviour == "diverges" and epoch >= 1:
            return math.nan
        wave = 0.01 * math.sin(self.options.seed + epoch * STEPS + step)
        return 1.0 / (1.0 + epoch + step / STEPS) + abs(math.log10(self.options.lr) + 2.0) + wave

    def report(self, **numbers: float) -> None:
        sys.stdout.write(f"{numbers}\n")
        sys.stdout.flush()

    def save(self, epoch: int) -> None:
        folder = os.path.join(self.options.output, f"checkpoint-{(epoch + 1) * STEPS}")
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "weights.bin"), "wb") as stream:
            stream.write(b"w" * 1000)
        self.gate("checkpoint")
        with open(os.path.join(folder, "state.json"), "w", encoding="utf-8") as stream:
            text = json.dumps({"epoch": epoch + 1})
            stream.write(text[:5])
            stream.flush()
            self.gate("torn-checkpoint")
            stream.write(text[5:])

    def misbehave(self, epoch: int) -> None:
        behaviour = self.options.behaviour
        if epoch == 1 and behaviour == "hangs":
            while True:
                time.sleep(3600)
        if epoch == 1 and behaviour == "bug":
            raise ValueError("the label 7 is unknown")
        if epoch == 1 and behaviour == "out-of-memory":
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: can't allocate memory: "
                "you tried to allocate 549755813888 bytes. Error code 12 (Cannot allocate memory)"
            )
        if behaviour == "cannot-resume" and self.first:
            raise RuntimeError("the optimizer state does not fit")

    def misbehave_after(self, epoch: int) -> None:
        if epoch == 1 and self.options.behaviour == "killed-once" and not self.first:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.options.behaviour == "deletes-checkpoints" and epoch:
            folder = os.path.join(self.options.output, f"checkpoint-{epoch * STEPS}")
            subprocess.run(["rm", "-r", folder], check=False)

    def gate(self, phase: str) -> None:
        """Wait if this is the chosen phase, until somebody opens it."""
        if not phase or self.options.gate != phase or not self.options.gates:
            return
        with open(os.path.join(self.options.gates, f"{phase}.reached"), "w", encoding="utf-8"):
            pass
        while not os.path.exists(os.path.join(self.options.gates, f"open-{phase}")):
            time.sleep(0.02)


def start_family() -> None:
    """Start processes that leave the session, lose their parent, or get an empty environment."""
    subprocess.Popen(SLEEP_FOR_EVER)
    subprocess.Popen(SLEEP_FOR_EVER, start_new_session=True)
    subprocess.Popen(SLEEP_FOR_EVER, start_new_session=True, env={})
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork():
            os._exit(0)
        os.execv(SLEEP_FOR_EVER[0], SLEEP_FOR_EVER)


if __name__ == "__main__":
    main()
