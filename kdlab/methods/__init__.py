"""The equations of the papers: selection, adoption, knowledge and KSM. They need torch alone."""
