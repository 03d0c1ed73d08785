"""The verbs of the event templates: lemma, past, French infinitive, Chinese."""

from __future__ import annotations

VERB_ROWS = """
argue|argued|se disputer|吵架
arrive|arrived|arriver|到
bake|baked|faire cuire|烤
be|was|être|是
bite|bit|mordre|咬
blow|blew|souffler|刮
borrow|borrowed|emprunter|借
break|broke|casser|弄坏
buy|bought|acheter|买
call|called|appeler|打电话
catch|caught|attraper|抓
charge|charged|recharger|充电
chase|chased|poursuivre|追赶
come|came|venir|来到
cook|cooked|préparer|做
count|counted|compter|数
cross|crossed|traverser|过
dance|danced|danser|跳舞
draw|drew|dessiner|画
eat|ate|manger|吃
feed|fed|nourrir|喂
find|found|trouver|找到
follow|followed|suivre|跟着
frighten|frightened|faire peur|吓到
give|gave|donner|给
go|went|aller|去
greet|greeted|saluer|问候
have|had|avoir|有
help|helped|aider|帮助
hug|hugged|serrer dans ses bras|拥抱
laugh|laughed|se moquer|嘲笑
leave|left|laisser|留
lend|lent|prêter|借给
lick|licked|lécher|舔
look|looked|chercher|找
lose|lost|perdre|弄丢
meet|met|rencontrer|遇见
open|opened|ouvrir|开
pay|paid|déposer|存
peel|peeled|éplucher|剥皮
pick|picked|cueillir|摘
play|played|jouer|玩耍
put|put|mettre|穿上
rain|rained|pleuvoir|下雨
read|read|lire|读
repair|repaired|réparer|修好
return|returned|revenir|回到
ride|rode|monter|骑
rise|rose|monter|漫过
run|ran|courir|跑到
say|said|dire|说
see|saw|voir|看见
sell|sold|vendre|卖给
shine|shone|briller|照耀
share|shared|partager|分享
show|showed|montrer|看
sing|sang|chanter|唱
sit|sat|s'asseoir|坐
sleep|slept|dormir|睡觉
smile|smiled|sourire|微笑
snow|snowed|neiger|下雪
steal|stole|voler|偷走
stroke|stroked|caresser|抚摸
swim|swam|nager|游泳
take|took|prendre|拿走
talk|talked|bavarder|聊天
tell|told|dire|告诉
thank|thanked|remercier|感谢
throw|threw|lancer|扔给
tie|tied|attacher|系
wait|waited|attendre|等待
want|wanted|vouloir|想
wash|washed|laver|洗
watch|watched|regarder|看着
wave|waved|faire signe|挥手
work|works|travailler|上班
write|wrote|écrire|写
"""
