"""LoRA adapters, as PEFT saves them: what they hold, and how they are applied to a base."""
