"""One documentation line for each argument of code that a configuration may set (`kdlab.config.arguments`).

`--explain` and docs/configuration.md print them. Keyed by `code.argument`, or by the argument alone where all code means the
same by it. A test fails for an argument without a line, and for a line without an argument.
"""

from __future__ import annotations

LINES = {
    # row sources
    "path": "File or folder of the rows",
    "encoding": "Encoding of .txt, .tsv, .csv and .jsonl files, by its name in Python",
    "text_column": "Column or key with the text",
    "group": "Consecutive rows that form one document",
    "TaskFolder.columns": "Text columns, two for pairs; null: the usual names",
    "TaskFolder.label": "Label column; null: the usual names",
    "TaskFolder.regression": "true: labels are numbers to predict; null: inferred from them",
    "dev_share": "Share of train held out as dev where there is no dev split",
    "HubText.name": "Data set on the Hub",
    "HubText.config": "Its configuration; null: the only one",
    "HubText.split": "Its split",
    "HubText.revision": "Its revision: a commit",
    "TextFolder.document": "One document of a .txt file: the file, a block between blank lines, or a line",
    # adoption
    "alone.place": "Teacher that answers, from 0 (the smallest) or from -1 (the largest)",
    "by_certainty.scale": "Temperature of the softmax over the teachers' scores (MUKI: 0.2); null: in proportion to the scores",
    "margin": "true: a row's loss is weighted by the margin of the two best teachers (MUKI)",
    # knowledge
    "layers": "Pairs of student and teacher layers: uniform, skip, last, or the teacher's layer of each student layer",
    "jensen_shannon.beta": "Share of the teacher in the mixture, and weight of its divergence (GKD)",
    "skew": "Share of the first distribution in the mixture that it is compared with (DistiLLM: 0.1)",
    "interpolated_kl.start": "Share of the teacher's logits in the target when the training begins (TAID)",
    "interpolated_kl.end": "Share of the teacher's logits in the target when the training ends (TAID: 1)",
    "temperature": "Temperature of the softened outputs; the loss is multiplied by its square",
    "patient.squared": "true: the squared distance (BERT-PKD); false: the distance (FeaK of KSM)",
    "patient.average": "true: the mean over layers and width (BERT-PKD's public code); false: the sum",
    "CommonFeatures.width": "Width of the common space",
    "CommonFeatures.reconstruction": "Weight of reading each teacher's feature back from its common feature",
    # weighing
    "random_hard.epochs": "Epochs in which sets are drawn, all terms count afterwards (Random-One: 1); null: all",
    "uncertainty.certain": "Terms weighted by 1 - u, u the student's uncertainty of the row",
    "uncertainty.uncertain": "Terms weighted by u",
    "KSM.rows": "Rows of the module's state, side by side; null: their mean",
    "KSM.action": "Weights of the terms: soft (in [0, 1]) or hard (0 or 1)",
    "KSM.threshold": "action=hard: output from which a term counts (lambda)",
    "KSM.alpha": "Weight of the exploration bonus (Eq. 12, 13)",
    "KSM.gamma": "Discount of later rewards",
    "KSM.lr_actor": "Learning rate of the actor (Adam)",
    "KSM.lr_critic": "Learning rate of the critic (Adam)",
    "KSM.hidden": "Width of the module's networks",
    "KSM.features": "Numbers that each model's [CLS] state is mapped to",
    "KSM.noise": "Standard deviation of the noise on an action while the module learns",
    "KSM.restraint": "Weight of a penalty on the mean square of the sigmoids' inputs",
    "KSM.normalise": "true: rewards less their mean, over their standard deviation",
    "KSM.seed": "Seed of the module's weights",
    # policies and rewards
    "DiscountedUCB.gamma": "Factor of what is known of all arms at each further reward",
    "DiscountedUCB.xi": "Weight of the exploration bonus, inside its root (the paper: above 1/2)",
    "WindowUCB.window": "Rewards that count: the last ones of all arms",
    "WindowUCB.xi": "Weight of the exploration bonus, inside its root (the paper: above 1/2)",
    "Thompson.prior": "Rewards that the prior of an arm counts as: of the mean of all rewards",
    "Thompson.gamma": "Factor of what is known of all arms at each further reward; 1: nothing is forgotten",
    "Thompson.width": "Factor of the draws' deviations from the posterior means; below 1 explores less",
    "Ratios.prior": "Rewards that the prior of an arm counts as: of the mean of all rewards",
    "Ratios.gamma": "Factor of what is known of all arms at each further reward; 1: nothing is forgotten",
    "Ratios.width": "Factor of the draws' deviations from the posterior means; below 1 explores less",
    "Ratios.rate": "Step size of the price of queries",
    "Ratios.ratio": "Mean ratio over the training; set from select.ratio",
    "Exp3S.gamma": "Share of the draws that is uniform over the arms",
    "Exp3S.alpha": "Share of all weight that each reward gives to the arms, times e (the paper: 1 / rewards)",
    "Exp3S.window": "Last rewards that set the scale of a reward",
    "Halving.budget": "Share of the rest of the training over which the arms are halved",
    "Exp3.gamma": "Share of the draws that is uniform over the arms",
    "Fixed.arm": "Arm to take; null: the only one",
    "Online.alpha": "Weight of a new reward in an arm's Q value (not printed in AdaDS)",
    "Online.epsilon": "Probability of an arm drawn uniformly (not printed in AdaDS)",
    "LinUCB.alpha": "Weight of the exploration bonus",
    "LinUCB.window": "Last rewards that set the scale of a reward",
    "Online.relative": "true: rewards less the running mean of all rewards",
    "Schedule.stages": "Arms, one after another",
    "Schedule.at": "Shares of the training at which the next stage begins; null: equally long stages",
    "UCB.c": "Weight of the exploration bonus (UCB1: the root of 2)",
    "Trend.per": "Unit of the fall: a step at the full learning rate (learning_rate) or any step (steps)",
    "FallPerCost.per": "Cost that the fall is divided by: flops, or queries (answers of teachers)",
    "FallPerCost.centred": "true: less the expected fall of all arms; false: the fall itself",
    "Probe.compare": "Arms of a probe: all, or how many (the one in force, others at random)",
    "decay": "Weight of an observation in the trend, as a share of the weight of the next one",
    "ridge": "Weight of the assumption that arms do not differ and falls stay as they are, in observations",
    "standardise": "true: rewards over the root mean square of those so far",
    "LossDecay.window": "Observations of the line whose slope is the speed (K of AdaDS Eq. 10, not printed)",
    "divbs.exact": "true: the row of the largest gain in representativeness; false: the paper's cheaper step",
    "committee.measure": "bald (information that the members share) or vote_entropy (of their most probable classes)",
    "cluster.clusters": "Clusters of k-means++; null: as many as rows are kept",
}


def line_of(target: str, argument: str) -> str:
    """The line of an argument of the code named `target`; "" without one, as of a user's own code."""
    return LINES.get(f"{target.rpartition('.')[2]}.{argument}", LINES.get(argument, ""))
