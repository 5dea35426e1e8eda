"""Realistic responses of instruct models, and what a competent reader takes for their answer."""

import pytest

from acdc_jax.tasks.answer_extraction import extract_answer

_POEM = (
    "The gate creaks in the rain,\nsmoke drifts over the lane,\nleaves fall one by one,\n"
    "and the year is done."
)
_CODE = "def squeeze(text):\n    return text"
_LONG_CODE = (
    "import re\n\nLIMIT = 3\n\n\ndef helper(x):\n    # Count runs.\n    return x\n\n\n"
    "def squeeze(text):\n    for c in text:\n\n        helper(c)\n    return text"
)
_BLOCK = f"```python\n{_CODE}\n```"
_JSON = '{\n  "city": "Lagos",\n\n  "skills": ["cello", "oud"]\n}'
_ESSAY = (
    "The sky is blue because sunlight is made of many colours, and the air bounces the blue ones "
    "around far more than the red ones, so blue reaches your eyes from everywhere.\n\n"
    "At sunset the light takes a longer way through the air, and most of the blue is lost on the "
    "way to you, which is why the sky near the sun looks orange and red then."
)

# Name, response, answer.
RESPONSES = [
    # ------------------------------------------------------------------ short, after reasoning
    ("qwen steps", "Step 1: 6 * 7 = 42.\nStep 2: done.\n\nAnswer: 42", "42"),
    ("qwen box", "Adding up gives\n\\[\n2 + 3 = 5\n\\]\nThe answer is \\(\\boxed{5}\\).", "5"),
    ("qwen math", "Thus, the final answer is:\n\n\\[\n\\boxed{\\frac{3}{8}}\n\\]", "\\frac{3}{8}"),
    ("llama bold", "Let's see.\n\n**Answer:** 42", "42"),
    ("llama 3 final", "## Step 1: Add\n2 + 3 = 5\n\nThe final answer is: $\\boxed{5}$", "5"),
    ("minerva", "Final Answer: The final answer is $42$. I hope it is correct.", "42"),
    ("gpt heading", "### Reasoning\n6 × 7 = 42\n\n### Final Answer\n42", "42"),
    ("gpt tick", "Here is the sum.\n\n✅ **Final Answer:** 42", "42"),
    ("gpt finger", "👉 Answer: **B**", "B"),
    ("bold heading", "**Final Answer**\n\n42", "42"),
    ("r1 distill", "First 6*7.\n\n**Final Answer**\n\\boxed{42}", "42"),
    ("r1", "<think>\nAnswer: 5? No, wait.\n</think>\n\nThe product is 42.\n\nAnswer: 42", "42"),
    ("r1 opened by template", "Hm, 5? Answer: 5? No.\n</think>\n\n**Answer:** 42", "42"),
    ("thoughts only", "<think>\nAnswer: 5, but I am still", ""),
    ("grpo tags", "<reasoning>6*7</reasoning>\n<answer>\n42\n</answer>", "42"),
    ("grpo answer with box", "<think>a</think><answer>It is \\boxed{42}.</answer>", "42"),
    ("magistral", "[THINK]Answer: 5?[/THINK]Answer: 42", "42"),
    ("gpt-oss", "<|channel|>analysis<|message|>5?<|end|><|channel|>final<|message|>Answer: 4", "4"),
    (
        "sky-t1",
        "<|begin_of_thought|>5<|end_of_thought|>\n<|begin_of_solution|>\nAnswer: 4\n"
        "<|end_of_solution|>",
        "4",
    ),
    ("gsm8k", "Natalia sold 48/2 = <<48/2=24>>24 clips.\n48+24 = <<48+24=72>>72\n#### 72", "72"),
    ("gsm8k money", "He pays 1,200 dollars.\n#### $1,200", "$1,200"),
    ("gsm8k negative", "It is colder.\n#### -3.5", "-3.5"),
    ("gsm8k with chatter", "3 + 4 = 7\n#### 7\n\nI hope this helps!", "7"),
    ("headings of level 4", "#### Step 1\nAdd.\n#### Step 2\nAnswer: 5", "5"),
    ("heading of level 4", "#### 1. Count\nThere are 3.\n\n#### Final Answer\n3", "3"),
    ("inline label", "So 6 * 7 = 42. Answer: 42", "42"),
    ("sentence", "We multiply 6 by 7. The answer is 42.", "42"),
    ("sentence, bold", "Therefore, the correct answer is **(B) Paris**.", "(B) Paris"),
    ("sentence, decimal", "So the answer is 3.5.", "3.5"),
    ("sentence, no stop", "I counted twice.\nThe answer is 42", "42"),
    ("sentence, reason", "The final answer is 42, because 6 * 7 = 42.", "42"),
    ("sentence, next line", "So the final answer is:\n\n42", "42"),
    ("sentence, of a question", "The answer to the riddle is a shadow.", "a shadow"),
    ("sentence, equals", "Hence the answer = 82.", "82"),
    ("sentence in an answer", "Answer: The answer is 42.", "42"),
    ("answer in units", "Answer (in metres): 42", "42"),
    ("answer to the question", "Answer to the question: 42", "42"),
    ("arrow", "Answer → 42", "42"),
    ("equals", "Answer = 42", "42"),
    ("dash", "Answer - 42", "42"),
    ("here is", "Here is the final answer: 42", "42"),
    ("last step", "Step 5: Final answer: 42", "42"),
    ("item", "1. Add.\n2. **Answer:** 42", "42"),
    ("quote", "> **Answer:** 42", "42"),
    ("inline code", "`Answer: 42`", "42"),
    ("parentheses", "(Answer: 42)", "42"),
    ("value in backticks", "Answer: `22`", "22"),
    ("value in three backticks", "Answer: ```22```", "22"),
    ("abbreviated", "Ans: 42", "42"),
    ("sentence without article", "Answer is 42.", "42"),
    ("value in dollars", "Answer: $42$", "42"),
    ("value in latex text", "So \\boxed{\\text{Paris}}.", "Paris"),
    ("value in a fence", "Answer:\n```\n22\n```", "22"),
    ("amount of money", "Answer: $5", "$5"),
    ("framed", "```\nAnswer: 42\n```", "42"),
    ("windows line ends", "Add.\r\nAnswer: x = 3\r\ny = 5\r\n", "x = 3\ny = 5"),
    ("gsm8k, in a line", "So the total is 12 #### 12", "12"),
    ("bold, then a remark", "**Answer: 12** (since 5 + 7 = 12)", "12"),
    ("bold, then an emoji", "**Final Answer: 12 apples** 🍎", "12 apples"),
    ("bold, then a stop", "So the **final answer: 12**.", "12"),
    ("bold with a power", "**Answer: x**2 + 1**", "x**2 + 1"),
    ("label in backticks", "`Answer:` 42", "42"),
    ("label in quotes", '"Answer:" 42', "42"),
    ("value in three backticks", "Answer: ```42```", "42"),
    ("abbreviated", "Ans: 12", "12"),
    ("option", "Therefore, the correct option is B.", "B"),
    ("equals, no stop", "Hence the answer = 82", "82"),
    # ------------------------------------------------------------------- what follows an answer
    ("explanation, same line", "**Answer:** 42 **Explanation:** 6*7=42.", "42"),
    ("explanation of an option", "Answer: C. Explanation: the others are wrong.", "C."),
    ("explanation, heading", "Answer:\n- a\n- b\n\n### Explanation\nBoth.", "- a\n- b"),
    ("explanation, bold heading", f"### Answer\n{_POEM}\n\n**Notes**\nIt rhymes.", _POEM),
    ("next field", "1. **Reasoning**: 5+7\n2. **Answer**: 12\n3. **Confidence**: 95%", "12"),
    ("next turn, next line", "Answer: 12\nUser: And 8 * 8?", "12"),
    ("explanation", "Answer: 42\n\nExplanation: 6*7 = 42.", "42"),
    ("explanation, next line", "Answer: 42\nExplanation: 6*7 = 42.", "42"),
    ("explanation, bold", "**Answer:** 42\n\n**Explanation:** 6*7 = 42.", "42"),
    ("explanation, no label", "Answer: 42\n\nThis is because 6 * 7 = 42.", "42"),
    ("sentence, next line", "Answer: Paris\nIt is the capital of France.", "Paris"),
    ("option, next line", "Answer: B\nThe other options are wrong.", "B"),
    ("equation, next line", "Answer: 42\n6 * 7 = 42", "42"),
    ("hope", "Answer: Paris\n\nI hope this helps!", "Paris"),
    ("hope, same line", "Answer: Paris. I hope this helps!", "Paris."),
    ("let me know", "Answer: Paris\n\nLet me know if you need more help.", "Paris"),
    ("rule", "Answer: Paris\n\n---\n\nParis has two million people.", "Paris"),
    ("remark with answer", "Answer: Paris\n\n(Note that a common wrong answer: Lyon)", "Paris"),
    ("remark, sentence", "Answer: Paris\n\nMany people think the answer is Lyon.", "Paris"),
    ("remark, wrong answer", "Answer: Paris\n\nWrong answer: Lyon", "Paris"),
    ("remark, other answer", "Answer: Paris\n\nAnother possible answer: Lyon", "Paris"),
    ("remark, alone", "A common wrong answer: Lyon.\n\nThe answer is Paris.", "Paris"),
    ("check", "Answer: 42\n\nCheck: 42 / 7 = 6, so the answer is correct.", "42"),
    ("verified again", "Answer: 5\n\nThe answer is 5 because 2 + 3 = 5.", "5"),
    ("below, explained", "Answer:\n42\n\nThis follows from 6 * 7.", "42"),
    (
        "below, name explained",
        "Answer:\nThe Eiffel Tower\n\nIt was built in 1889.",
        "The Eiffel Tower",
    ),
    ("next question", "Answer: 42\n\nQuestion: What is 2 + 2?\nAnswer: 4", "42"),
    ("next turn", "Answer: 42\n\nUser: And 8 * 8?\nAssistant: Answer: 64", "42"),
    # ------------------------------------------------------------------- which declaration counts
    ("changed its mind", "Answer: 41\nNo, wait.\nAnswer: 42", "42"),
    ("took it back", "Answer: 41\n\nWait, I forgot one. So the answer is 42.", "42"),
    ("took it back at once", "Answer: 41. Wait, the correct answer is 42.", "42"),
    ("corrected", "Answer: 41\n\nCorrection: the right answer is 42.", "42"),
    ("box, then label", "\\boxed{41}? No.\nAnswer: 42", "42"),
    ("echo of the format", "I end with `Answer: <your answer>`.\n\nAnswer: 42", "42"),
    ("mention alone", "The line has to begin with `Answer:` and one word.\n\nI begin.", ""),
    ("echo alone", "I have to end with `Answer: <your answer>`.\n\nLet me begin.", ""),
    ("condition", "If the answer is 5, x is odd. Now x is even.\n\nAnswer: 4", "4"),
    ("variable", "```python\nanswer = 41\nprint(answer + 1)\n```\nAnswer: 42", "42"),
    ("variable, unfenced", "answer = 41\n\nThe loop adds one.\n\nAnswer: 42", "42"),
    # ------------------------------------------------------------------------------ several lines
    ("poem on the line", f"I will write it.\n\nAnswer: {_POEM}", _POEM),
    ("poem below", f"Answer:\n{_POEM}\n", _POEM),
    ("poem, bold label", f"**Answer:**\n\n{_POEM}\n\nI hope you like it!", _POEM),
    ("poem and remark", f"Answer: {_POEM}\n\nThis poem uses the words gate and smoke.", _POEM),
    ("two stanzas", f"Answer: {_POEM}\n\n{_POEM}", f"{_POEM}\n\n{_POEM}"),
    ("stanzas below", f"Answer:\n{_POEM}\n\n{_POEM}\n\nEnjoy!", f"{_POEM}\n\n{_POEM}"),
    ("poem with a title", f"Answer:\n**Autumn**\n\n{_POEM}", f"**Autumn**\n\n{_POEM}"),
    ("poem in a fence", f"Answer:\n```\n{_POEM}\n```\nDone.", _POEM),
    (
        "verse with answer",
        f"Answer: {_POEM}\nThe answer is blowing",
        f"{_POEM}\nThe answer is blowing",
    ),
    (
        "list on the line",
        "Reasoning.\nAnswer: 1. water\n2. fire\n3. earth",
        "1. water\n2. fire\n3. earth",
    ),
    (
        "list with gaps",
        "Answer:\n1. water\n\n2. fire\n\n3. earth",
        "1. water\n\n2. fire\n\n3. earth",
    ),
    ("list, line, gaps", "Answer: 1. water\n\n2. fire\n\nThat is all.", "1. water\n\n2. fire"),
    ("bullets", "Answer:\n- water\n- fire\n\nThese are two elements.", "- water\n- fire"),
    (
        "list with bullets in it",
        "Answer:\n1. Boil water.\n\n2. Add tea.\n   - one spoon\n\n3. Wait.\n\nEnjoy!",
        "1. Boil water.\n\n2. Add tea.\n   - one spoon\n\n3. Wait.",
    ),
    ("letters", "Answer: A. water\nB. fire", "A. water\nB. fire"),
    ("equations", "Answer: x = 3\ny = 5", "x = 3\ny = 5"),
    ("equations with gaps", "Answer: x = 3\n\ny = 5\n\nBoth are odd.", "x = 3\n\ny = 5"),
    ("output of a program", "Answer: 1\n2\nFizz\n4", "1\n2\nFizz\n4"),
    ("output below", "The output is\n\nAnswer:\nTrue\nFalse", "True\nFalse"),
    ("latex lines", "Answer: \\[\nx = 3\n\n\\]\nDone.", "x = 3"),
    ("cases", "Answer: \\begin{cases}\nx = 3\n\\end{cases}", "\\begin{cases}\nx = 3\n\\end{cases}"),
    ("table", "Answer:\n| a | b |\n|---|---|\n| 1 | 2 |", "| a | b |\n|---|---|\n| 1 | 2 |"),
    (
        "table on the line",
        "Answer: | a | b |\n|---|---|\n| 1 | 2 |",
        "| a | b |\n|---|---|\n| 1 | 2 |",
    ),
    ("json lines", f"Answer: {_JSON}", _JSON),
    ("json below", f"**Answer:**\n{_JSON}\n\nExplanation: as asked.", _JSON),
    ("json fence", f"Answer:\n```json\n{_JSON}\n```", _JSON),
    ("json after a sentence", f"Answer: Here is the JSON:\n{_JSON}\n\nIt is valid.", _JSON),
    ("json list", 'Answer: [\n  "a",\n  "b"\n]', '[\n  "a",\n  "b"\n]'),
    ("json, then text", 'Answer: {"a": 1}\n\nIt has one key.', '{"a": 1}'),
    ("json with answer", 'Answer: {\n  "answer": 42\n}', '{\n  "answer": 42\n}'),
    ("essay", f"Answer: {_ESSAY}", _ESSAY),
    ("essay below", f"Answer:\n\n{_ESSAY}\n\nLet me know if you have questions.", _ESSAY),
    (
        "story",
        "Answer:\n\nOnce there was a fox that lived in a wood.\n\nIt met a crow.\n\nThe end.",
        "Once there was a fox that lived in a wood.\n\nIt met a crow.\n\nThe end.",
    ),
    (
        "email",
        "Answer:\nSubject: Rain\n\nDear Ann,\n\nI write about rain.\n\nYours,\nBen",
        "Subject: Rain\n\nDear Ann,\n\nI write about rain.\n\nYours,\nBen",
    ),
    (
        "letter",
        "Answer:\nDear Ann,\n\nIt rains.\n\nYours,\nBen",
        "Dear Ann,\n\nIt rains.\n\nYours,\nBen",
    ),
    # ---------------------------------------------------------------------------------------- code
    ("code on the line", f"Think.\nAnswer: {_CODE}\n", _CODE),
    ("code below", f"Answer:\n{_CODE}\n\nThis function returns the text.", _CODE),
    (
        "code with a comment",
        "Answer:\ndef f():\n    # answer: x\n    return 1",
        "def f():\n    # answer: x\n    return 1",
    ),
    ("long code", f"Answer:\n{_LONG_CODE}\n\nExplanation: it counts.", _LONG_CODE),
    ("long code on the line", f"Answer: {_LONG_CODE}", _LONG_CODE),
    ("code in a fence", f"Answer:\n{_BLOCK}\n", _CODE),
    ("fence on the line", f"Answer: {_BLOCK}\n\nIt works by copying.", _CODE),
    ("fence after a sentence", f"Answer: Here is the function:\n\n{_BLOCK}", _CODE),
    ("fence below", f"Answer: The function is given below.\n{_BLOCK}", _CODE),
    ("fence never closed", f"Answer:\n```python\n{_CODE}", _CODE),
    ("fence in a list", "Answer:\n   ```python\n   x = 1\n   y = 2\n   ```", "x = 1\ny = 2"),
    ("inline function", "Answer: `def f(x): return x`", "def f(x): return x"),
    ("sql", "Answer: SELECT a\nFROM t\n\nWHERE a > 1;", "SELECT a\nFROM t\n\nWHERE a > 1;"),
    ("javascript", "Answer: function f(x) {\n  return x;\n}", "function f(x) {\n  return x;\n}"),
    ("shown above", f"{_BLOCK}\n\nAnswer: The function is shown above.", _CODE),
    ("see above", f"{_BLOCK}\n\nAnswer: See the code above.", _CODE),
    ("its name", f"{_BLOCK}\nAnswer: squeeze", _CODE),
    ("its name in backticks", f"{_BLOCK}\n**Answer:** `squeeze(text)`", _CODE),
    ("its name, then the code", f"Answer: squeeze\n{_BLOCK}", _CODE),
    ("a name of another", f"```python\n{_CODE}\n\nprint(squeeze('a'))\n```\nAnswer: a", "a"),
    ("computed by code", "```python\nprint(6 * 7)\n```\nAnswer: 42", "42"),
    # --------------------------------------------------------------------------- other languages
    ("german", "Also gilt das.\n\nAntwort: 42", "42"),
    ("german, final", "**Endgültige Antwort:** 42", "42"),
    ("french", "Réponse : Paris", "Paris"),
    ("spanish", "La respuesta final es: 42", "42"),
    ("russian", "Ответ: 42", "42"),
    ("chinese", "所以一共有42个。\n答案：42", "42"),
    ("chinese sentence", "经过计算，所以答案是42。", "42"),
    ("chinese, short", "5+7=12\n答：共有12个。", "共有12个"),
    ("korean", "최종 답변: 12", "12"),
    ("japanese sentence", "最終的な答えは12です。", "12"),
    ("japanese", "答え：42", "42"),
    # -------------------------------------------------------------------------------- undeclared
    ("bare", "Paris", "Paris"),
    ("bare symbols", "**bb**", "**bb**"),
    ("bare sentence", "The ladder is too long.", "The ladder is too long."),
    ("bare poem", _POEM, _POEM),
    ("bare json", _JSON, _JSON),
    ("bare code", _LONG_CODE, _LONG_CODE),
    ("one block", f"Here it is:\n{_BLOCK}\nIt returns the text.", _CODE),
    ("two blocks", f"{_BLOCK}\nUse it like this:\n```python\nprint(squeeze('a'))\n```", _CODE),
    ("reasoning only", "First, I add 2 and 3.\n\nThen I double it.\n\nThat makes 10.", ""),
    ("cut", "First, 12 * 7 = 84, so the answer = 84 - 2 would be", ""),
    ("cut early", "We set answer = 5 first and then", ""),
    ("refusal", "I cannot give the answer.", ""),
    ("nothing", " \n", ""),
]


@pytest.mark.parametrize(
    ("response", "answer"), [pytest.param(r, a, id=name) for name, r, a in RESPONSES]
)
def test_answer(response: str, answer: str) -> None:
    assert extract_answer(response) == answer


# Name, response that was cut at the limit of tokens, answer.
TRUNCATED = [
    ("half a number", "Answer: 12", ""),
    ("a whole number", "Answer: 12\n\nLet me check", "12"),
    ("a line that ended", "Answer: 12\n", "12"),
    ("half a poem", "Answer:\nThe gate creaks\nin", ""),
    ("half a line", "Answer: the quick brown", ""),
    ("half a box", "So \\boxed{12", ""),
    ("a whole box", "So \\boxed{12}", "12"),
    ("half a block", f"Answer:\n```python\n{_CODE}", ""),
    ("a whole block", f"Answer:\n{_BLOCK}", _CODE),
    ("half of code", f"Answer: {_CODE}", ""),
    ("half a sentence", "So the answer is 84 - 2 would", ""),
    ("a whole sentence", "So the answer is 84. Let me", "84"),
    ("half a list of JSON", 'Answer: [\n "a",', ""),
    ("a whole list of JSON", 'Answer: [\n "a"\n]', '[\n "a"\n]'),
    ("an endless repetition", "Answer: Paris\n\nAnswer: Paris\n\nAnswer: Par", "Paris"),
    ("a number of GSM8K", "#### 12", ""),
    ("reasoning", "First, I add 2 and 3", ""),
    ("one word", "Paris", ""),
    ("a tag", "<answer>42</answer> because", "42"),
    ("emphasis that ended", "**Answer: 12** (since", "12"),
    ("half a tag", "<answer>42", ""),
]


@pytest.mark.parametrize(
    ("response", "answer"), [pytest.param(r, a, id=name) for name, r, a in TRUNCATED]
)
def test_truncated(response: str, answer: str) -> None:
    assert extract_answer(response, truncated=True) == answer
