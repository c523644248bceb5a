"""Selection of the rows that query the teacher: strategies, policies, rewards, top-k, clustering."""
