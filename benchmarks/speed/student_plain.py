"""The plain training loop for comparison: photos from a list, Pillow, torchvision's transforms, a DataLoader.

It is like most training scripts: every epoch decodes every photo in full size, in float32, with PyTorch's default
memory order (NCHW). Network, losses, optimiser and augmentation are those of `fgvr.training.student`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from fgvr.training.examples import Examples
from fgvr.training.reporter import Reporter
from fgvr.training.student_data import StudentJob

Item = tuple[torch.Tensor, int, torch.Tensor]


@dataclass(frozen=True)
class PlainLoop:
    """Trains the job's student; picklable, called with a reporter as `train_student` is.

    Attributes:
        job: as for `train_student`.
        workers: processes of the DataLoader; 0: none.
    """

    job: StudentJob
    workers: int

    def __call__(self, reporter: Reporter) -> None:
        """Train all epochs, a report after each."""
        import timm

        settings, classes = self.job.settings, len(self.job.spec.labels)
        torch.manual_seed(settings.seed)
        outputs = classes + len(self.job.spec.questions)
        model = timm.create_model(self.job.spec.backbone, num_classes=outputs).to(reporter.device)
        optimiser = torch.optim.SGD(
            model.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
        batches = plain_batches(self.job, self.workers)
        for _ in range(settings.epochs):
            model.train()
            for images, targets, p_yes in batches:
                logits = model(images.to(reporter.device))
                loss = functional.cross_entropy(logits[:, :classes], targets.to(reporter.device))
                loss = loss + settings.alpha * functional.binary_cross_entropy_with_logits(
                    logits[:, classes:], p_yes.to(reporter.device)
                )
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            reporter.report({"loss": loss.item()})


def plain_batches(job: StudentJob, workers: int) -> DataLoader[Item]:
    """Shuffled batches of (images [n, 3, S, S], classes [n], p(yes) [n, Q]), photos decoded anew in each epoch."""
    return DataLoader(
        _Photos(job),
        batch_size=job.settings.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


class _Photos(Dataset[Item]):
    def __init__(self, job: StudentJob) -> None:
        from torchvision import transforms

        self.examples = Examples.read(job.examples)
        preprocess = job.spec.preprocess
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(preprocess.input_size, scale=(job.settings.min_crop, 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(preprocess.mean, preprocess.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, position: int) -> Item:
        with Image.open(self.examples.uris[position]) as image:
            pixels = self.transform(image.convert("RGB"))
        return pixels, int(self.examples.classes[position]), torch.from_numpy(self.examples.p_yes[position])
