"""Flags of XLA for tests; imports nothing, so that they can be set before jax is there."""

# Where a run's programs are compiled for it alone, that takes longer than they run.
COMPILE_QUICKLY = " ".join(
    (
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false",  # MLIR pipelines: three times the time
        "--xla_cpu_parallel_codegen_split_count=1",
    )
)
