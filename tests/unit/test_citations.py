"""Papers that the code, the configuration and the docs cite: first author and year, as their title pages have them."""

from __future__ import annotations

import re
from pathlib import Path

from kdlab.reporting.papers import PAPERS

ROOT = Path(__file__).resolve().parents[2]
CITED = re.compile(r"\b([A-Z][A-Za-z-]+)\s+et\s+al\.,?[\s#]+\(?((?:19|20)\d\d)\b")
WORKS = {
    ("Agarwal", 2024): "On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes",
    ("Anshumann", 2025): "Sparse Logit Sampling",
    ("Ash", 2020): "Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds",
    (
        "Auer",
        2002,
    ): "Finite-time Analysis of the Multiarmed Bandit Problem; The Nonstochastic Multiarmed Bandit Problem",
    ("Chen", 2016): "Training Deep Nets with Sublinear Memory Cost",
    ("Devlin", 2019): "BERT",
    ("Gal", 2017): "Deep Bayesian Active Learning with Image Data",
    ("Gu", 2024): "MiniLLM: Knowledge Distillation of Large Language Models",
    ("Guo", 2017): "On Calibration of Modern Neural Networks",
    ("Hinton", 2015): "Distilling the Knowledge in a Neural Network",
    ("Hong", 2024): "Diversified Batch Selection for Training Acceleration",
    ("Houlsby", 2011): "Bayesian Active Learning for Classification and Preference Learning",
    ("Huang", 2026): "SelecTKD: Selective Token-Weighted Knowledge Distillation for LLMs",
    ("Hu", 2022): "LoRA: Low-Rank Adaptation of Large Language Models",
    ("Jiao", 2020): "TinyBERT",
    (
        "Kool",
        2019,
    ): "Stochastic Beams and Where to Find Them: The Gumbel-Top-k Trick for Sampling Sequences Without Replacement",
    ("Ko", 2024): "DistiLLM: Towards Streamlined Distillation for Large Language Models",
    ("Li", 2021): "Dynamic Knowledge Distillation for Pre-trained Language Models",
    ("Li", 2022): "MUKI",
    ("Luo", 2019): "Knowledge Amalgamation from Heterogeneous Networks by Common Feature Learning",
    ("Matiisen", 2020): "Teacher-Student Curriculum Learning",
    ("Mindermann", 2022): "Prioritized Training on Points that are Learnable, Worth Learning, and Not Yet Learnt",
    ("Paul", 2021): "Deep Learning on a Data Diet",
    ("Sanh", 2019): "DistilBERT",
    (
        "Shing",
        2025,
    ): "TAID: Temporally Adaptive Interpolated Distillation for Efficient Knowledge Transfer in Language Models",
    ("Shen", 2019): "Amalgamating Knowledge towards Comprehensive Classification",
    ("Steele", 2014): "Fast Splittable Pseudorandom Number Generators",
    ("Sun", 2019): "Patient Knowledge Distillation for BERT Model Compression",
    ("Tavor", 2026): "Rethinking Selective Knowledge Distillation",
    ("Toneva", 2019): "An Empirical Study of Example Forgetting during Deep Neural Network Learning",
    ("Turc", 2019): "Well-Read Students Learn Better",
    ("Vongkulbhisal", 2019): "Unifying Heterogeneous Classifiers with Distillation",
    ("Wang", 2019): "GLUE",
    ("Wang", 2020): "MiniLM",
    ("Wang", 2023): "Improved Knowledge Distillation for Pre-trained Language Models via Knowledge Selection",
    ("Wang", 2026): "Not All Disagreement Is Learnable: Token Teachability in On-Policy Distillation",
    ("Xie", 2026): "LLM-Oriented Token-Adaptive Knowledge Distillation",
    ("Xu", 2026): "TIP: Token Importance in On-Policy Distillation",
    ("Yim", 2017): "A Gift from Knowledge Distillation",
    ("Zhou", 2023): "AdaDS: Adaptive data selection for accelerating pre-trained language model knowledge distillation",
}


def test_every_paper_is_cited_by_its_author_and_year():
    places = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "conf").rglob("*.yaml")]
    places += [*(ROOT / "kdlab").rglob("*.py"), *(ROOT / "experiments").rglob("*.md")]
    found = {(name, int(year), file) for file in places for name, year in CITED.findall(file.read_text())}
    assert {(name, year, str(file)) for name, year, file in found if (name, year) not in WORKS} == set()
    assert ("Wang", 2023, ROOT / "conf" / "exp" / "ksm.yaml") in found


def test_ksm_is_cited_as_wang_et_al_2023():
    for file in (ROOT / "kdlab" / "stages" / "ksm_training.py", ROOT / "kdlab" / "callbacks" / "ksm_phases.py"):
        assert "KSM (Wang et al. 2023)" in file.read_text()


def test_reports_name_the_papers_by_their_titles():
    cited = {"adads": ("Zhou", 2023), "dynamickd": ("Li", 2021), "ksm": ("Wang", 2023)}
    assert {paper: PAPERS[paper] for paper in cited} == {
        paper: f"{name} et al. {year}, {WORKS[name, year]}" for paper, (name, year) in cited.items()
    }
