"""Knowledge terms (logits, hidden states, attention, several teachers), layer maps and weighing rules."""
