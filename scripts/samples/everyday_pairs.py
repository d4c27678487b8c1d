"""The plain cases of pairs: most rows of mrpc, qqp and stsb.

As in the real sets, what makes two texts differ is mostly that one of them says more, or says
something else: a comment on the news, a condition on the question, another kind of sentence.
"""

from __future__ import annotations

from .grammar import phrases

# What is said about a piece of news, which does not repeat it, in the tables of `pairs.NEWS`.
COMMENTS = phrases("""
    " We are very pleased , " {who} said , " but we do not want to say more before {month} . "
    Analysts had expected worse , and some of them now believe that {firm} will do better .
    It was not clear why it happened , and a spokesman for {firm} would not comment .
    " I think that we should wait and see , " said {who} , who has followed it for years .
    {who} , who lives near {town} , told reporters that nobody had been surprised .
    A similar thing happened {num} years ago in {town} , but few people remember it .
    The decision could still be changed , experts believe , perhaps as early as {month} .
    Critics say that it should have been done years ago , and they blame {firm} .
    More details are expected in {month} , when a full report will be published .
    " It is too early to say what it means for us , " a spokesman for {firm} told reporters .
    Experts believe that it will take at least {num} years before anything changes .
    {who} would not comment , but critics say that {firm} has been warned many times .
    It remains to be seen whether others will follow , analysts believe .
    " I do not think that anybody should worry , " {who} told reporters in {town} .
    Neighbours in {town} said that they had not noticed anything before {day} .
    Nobody knows yet whether it could happen again , experts in {town} say .
""")

# What narrows a question to a case that the plain question does not ask about.
CONDITIONS = phrases("""
    {Q} if I am over {age} years old?
    {Q} if I have only got {few} euros?
    {Q} if I am under {age} and still live with my parents?
    {Q} without telling my {relative} about it?
    {Q}, and what does my {relative} need to know about it?
    {Q}, and is it legal in {country}?
    {Q} if my {relative} does not want me to?
    {Q} while I live in {country}?
    {Q} when I am on holiday in {country} with my {relative}?
    I am {age} years old and live in {country}. {Q}?
    {Q} if I have only got {few} days?
    {Q} if my {relative} is ill and lives in {country}?
    My {relative} and I are over {age}. {Q} at our age?
""")
CONDITION_TABLES = {
    "age": ["sixteen", "eighteen", "thirty", "forty", "fifty", "sixty"],
    "few": ["three", "four", "five", "ten", "twenty"],
    "relative": ["mother", "father", "boss", "brother", "sister", "teacher", "wife", "husband"],
    "country": ["India", "Canada", "Germany", "Japan", "Brazil", "Australia", "Egypt", "France"],
}

# Sentences of news, which share nothing with the scenes of stsb, in the tables of `pairs.NEWS`.
ELSEWHERE = phrases("""
    Shares in {firm} fell {pct} percent.
    {firm} to cut {num} jobs in {town}.
    {who} elected {post} of {firm}.
    Police in {town} arrest {who} for {crime}.
    {team#1} beat {team#2} {num} to {num}.
    Profit at {firm} rises to {sum} million.
    {group} in {town} strike over {goal}.
    {storm} kills {num} near {town}.
    Court in {town} rejects appeal by {firm}.
    {firm} denies {crime} charges.
""")
