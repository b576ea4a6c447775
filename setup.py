"""The optional part of the build: the native step. Where there is no compiler the package installs without it."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "codegen_chat.lm._native",  # a plain C library, found by its name: native.py loads it through ctypes
            ["native/step.cpp"],
            depends=["native/kernels.h"],
            language="c++",
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-fno-math-errno",
                "-fno-trapping-math",
                "-fwrapv",
                "-Wno-psabi",
                "-pthread",
            ],
            extra_link_args=["-pthread"],
            optional=True,
        )
    ]
)
