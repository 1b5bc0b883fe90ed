"""recognition/migration/shell.py: launch scripts as words."""

from __future__ import annotations

import pytest

from recognition.migration.shell import Word, read_commands


def words(text):
    return [[word.text for word in command.words] for command in read_commands(text)]


def test_continued_lines_comments_and_placeholders():
    script = (
        "#!/bin/bash\n### CosFace | TinyFace ###\n"
        "NCCL_DEBUG=1 CUDA_VISIBLE_DEVICES=0,1 torchrun --nproc_per_node=2 train.py \\\n"
        "    --rec /data/<folder> \\\r\n    --threshold <threshold> --notes 'a # b' # why\n"
        "# tail \\\ncd x && python a.py\n"
    )
    first, second, third = read_commands(script)
    assert [word.text for word in first.words] == [
        *("torchrun", "--nproc_per_node=2", "train.py", "--rec", "/data/<folder>"),
        *("--threshold", "<threshold>", "--notes", "a # b"),
    ]
    assert first.heading == "CosFace | TinyFace" and first.line == 3
    assert first.environment == {"NCCL_DEBUG": "1", "CUDA_VISIBLE_DEVICES": "0,1"}
    assert [word.text for word in second.words] == ["cd", "x"]
    assert [word.text for word in third.words] == ["python", "a.py"]


def test_variables_of_the_script():
    script = "OUT=/a/b\nexport LR=0.1 N=2; R=${X:-8}\nrun $OUT/c \"$OUT d\" '$OUT' ${LR} $R ${OUT}s \\$OUT\n"
    assert words(script) == [["run", "/a/b/c", "/a/b d", "$OUT", "0.1", "8", "/a/bs", "$OUT"]]


@pytest.mark.parametrize(
    "part", ["$1", "$HOME", "$(date)", "`date`", "${X}", "${X%.py}", "x$Y", '"a $Z"', "$((1 + 1))"]
)
def test_what_only_a_shell_would_tell(part):
    (command,) = read_commands(f"run --lr {part} --end 1\n")
    assert command.words[2].unknown and command.words[3] == Word("--end") and not command.words[1].unknown


def test_redirections_and_keywords_are_no_words():
    assert words("nohup run a > log.txt 2>&1 &\n") == [["run", "a"]]
    assert words("run a >>log 2>/dev/null | tee b\n") == [["run", "a"], ["tee", "b"]]
    assert words("if true; then run a; fi") == [["true"], ["run", "a"]]
    assert words("for ((i = 0; i < 2; i++)); do run $i; done; f() { run b; }") == [["run", "$i"], ["run", "b"]]


def test_variables_that_commands_set_are_not_followed():
    for change in ("read LR", "unset LR", "((LR = 2))", "source settings.sh", "LR+=$X", "let LR=2"):
        *_, last = read_commands(f"LR=1\n{change}\nrun $LR $OTHER\n")
        assert last.words[1].unknown, change
    *_, last = read_commands("LR=1\nsource activate env\nLR+=5\nrun $LR\n")
    assert last.words[1] == Word("15")


def test_exported_variables_are_in_the_environment():
    *_, last = read_commands("export A=1 B=$X\nC=3\nD=4 env E=5 run\n")
    assert last.environment == {"A": "1", "B": "", "D": "4", "E": "5"}


def test_growth_and_cut_lines_end_in_a_sentence():
    for text, said in (
        ("run a \\ \n  --b\n", "line 1: a blank stands behind the backslash"),
        ("X=aaaaaaaaaa\n" + "X=$X$X\n" * 40, "a variable of more than"),
        ("X=(a b)\n" + 'X=("${X[@]}" "${X[@]}")\n' * 40, "an array of more than"),
        ("X=(a\n", "a bracket is opened"),
    ):
        with pytest.raises(ValueError, match=said):
            read_commands(text)


def test_an_open_quote_says_where():
    with pytest.raises(ValueError, match="line 2: a quote is opened"):
        read_commands("run a\nrun 'b\n")
