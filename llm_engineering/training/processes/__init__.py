"""Training in several processes of one machine: who starts them, what each of them takes, and how they stay one."""
