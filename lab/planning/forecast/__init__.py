"""What a plan will take, and what it can find: time, memory, statistical power, budget."""
