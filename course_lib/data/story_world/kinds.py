"""The kinds of event, as text. `events` says what the columns and the templates mean.

An entry is five lines: name | actor | needs | slots, then effects | options, then English, French, Chinese.
"""

from __future__ import annotations

# Groups of kinds, for `after`: having come by a thing, something pleasant, something unpleasant.
GROUPS = {
    "got": "find,buy,have,pick_up,pick_fruit,bake,cook,draw,find_again",
    "joy": "buy_for,find,find_again,give,give_back,help,hug,play_together,share",
    "hurt": "argue,bite,break,chased_by,frighten,laugh_at,lose,lose_own,not_find,steal,take",
}

# Beginnings: who is there, and who joins them.
BEGINNINGS = """
be | first | | P=start
  at A P | weight=8
  {A} was~v {P:in}
  {A} était~v {P:in}
  {A} {P:in}
visit | first | | P=start
  at A P | weight=8
  {A} went~v {P:to}
  {A} est~v allé@A~v {P:in}
  {A} 去~v 了 {P}
wait | first | | P=start
  at A P | weight=4
  {A} waited~v {P:in}
  {A} a~v attendu~v {P:in}
  {A} {P:in} 等待~v
come | newcomer | | P=scene
  at A P | weight=8 repeats
  {A} came~v {P:to}
  {A} est~v venu@A~v {P:in}
  {A} 来到~v 了 {P}
be_too | newcomer | | P=scene
  at A P | no_opener repeats
  {A} was~v {P:in} too~t
  {A} était~v aussi~t {P:in}
  {A} 也~t {P:in}
run_up | new_animal | | P=scene
  at A P | repeats
  {A} ran~v {P:to}
  {A} a~v couru~v {P:until}
  {A} 跑到~v 了 {P}
animal_come | new_animal | | P=scene
  at A P | repeats
  {A} came~v {P:to}
  {A} est~v venu@A~v {P:in}
  {A} 来到~v 了 {P}
"""

# Going from place to place.
MOTION = """
go | person | placed | P=place
  at A P | weight=10 repeats
  {A} went~v {P:to}
  {A} est~v allé@A~v {P:in}
  {A} 去~v 了 {P}
run | person | placed | P=place
  at A P | weight=4 repeats
  {A} ran~v {P:to}
  {A} a~v couru~v {P:until}
  {A} 跑到~v 了 {P}
return | person | visited | P=visited
  at A P |
  {A} returned~v {P:to}
  {A} est~v revenu@A~v {P:in}
  {A} 回到~v 了 {P}
go_together | person | other | B=other P=place
  at A P; at B P | weight=8
  {AB} went~v {P:to} together~t
  {AB} sont~v allé@AB~v ensemble~t {P:in}
  {AB} 一起~t 去~v 了 {P}
bring | person | held | T=held P=place
  at A P | weight=20 salience=2 after=got
  {A} took~v {T} {P:to}
  {A} ^ a~v emporté%T~v {T:o} {P:in}
  {A} 把 {T} 带到~v 了 {P}
animal_run | animal | placed | P=place
  at A P | repeats
  {A} ran~v {P:to}
  {A} a~v couru~v {P:until}
  {A} 跑到~v 了 {P}
animal_follow | animal | person_here | B=person_here P=place
  at A P; at B P |
  {A} followed~v {B} {P:to}
  {A} ^ a~v suivi%B~v {B:o} {P:until}
  {A} 跟着~v {B} 到~P.prep 了 {P}
"""

# Coming by things.
GETTING = """
find | person | placed | T=new:find P=here
  hold A T; feel A 1 | weight=28 salience=3
  {A} found~v {T} {P:in}
  {A} a~v trouvé~v {T:o} {P:in}
  {A} {P:in} 找到~v 了 {T}
have | person | placed | T=new:carry
  hold A T | weight=16 no_opener
  {A} had~v {T}
  {A} avait~v {T:o}
  {A} 有~v {T}
buy | person | at_shop | T=new:buy P=here
  hold A T | weight=80 salience=3
  {A} bought~v {T} {P:in}
  {A} a~v acheté~v {T:o} {P:in}
  {A} {P:in} 买~v 了 {T}
buy_for | person | at_shop other | T=new:buy B=other
  hold B T; giver T A; feel B 1 | weight=24 salience=4
  {A} bought~v {T} {B:for}
  {A} a~v acheté~v {T:o} pour~B.prep {B:p}
  {A} 给~B.prep {B} 买~v 了 {T}
pick_up | person | loose | T=loose
  hold A T | weight=60 salience=2
  {A} picked~v {T} up~v
  {A} ^ a~v ramassé%T~v {T:o}
  {A} 捡起~v 了 {T}
pick_fruit | person | at_tree | T=new:fruit
  hold A T | weight=40 salience=3
  {A} picked~v {T} from~f the~d tree~r
  {A} a~v cueilli~v {T:o} sur~f l'~d arbre~r
  {A} 从~f 树~r 上~f 摘~v 了 {T}
cook | person | at_cook | T=new:cook
  hold A T | weight=60 salience=3
  {A} cooked~v {T}
  {A} a~v préparé~v {T:o}
  {A} 做~v 了 {T}
bake | person | at_cook | T=new:bake
  hold A T | weight=30 salience=3
  {A} baked~v {T}
  {A} a~v fait~v cuire~v {T:o}
  {A} 烤~v 了 {T}
draw | person | at_indoors | T=plain:paint
  hold A T; feel A 1 | weight=4 salience=3
  {A} drew~v {T}
  {A} a~v fait~v {T:o}
  {A} 画~v 了 {T}
lie_there | world | scene | T=new:find P=scene
  leave T P | weight=14 no_opener
  there~v was@T~v {T} {P:in}
  il~v y~v avait~v {T:o} {P:in}
  {P:loc} 有~v {T}
animal_there | world | scene animals_left | N=new_animal P=scene
  at N P | weight=8 no_opener
  there~v was~v {N} {P:in}
  il~v y~v avait~v {N:o} {P:in}
  {P:loc} 有~v {N}
"""

# From hand to hand.
GIVING = """
give | person | held other | T=held B=other
  hold B T; giver T A; feel B 1 | weight=80 salience=4 after=got
  {A} gave~v {T} {B:to}
  {A} ^ a~v donné%T~v {T:o} {B:i}
  {A} 把 {T} 给~v 了 {B}
lend | person | held other | T=held B=other
  hold B T; owner T A; feel B 1 | weight=40 salience=4 after=got
  {A} lent~v {T} {B:to}
  {A} ^ a~v prêté%T~v {T:o} {B:i}
  {A} 把 {T} 借给~v 了 {B}
give_back | person | borrowed | T=borrowed B=owner:T
  hold B T; feel B 1 | weight=60 salience=4
  {A} gave~v {T} back~v {B:to}
  {A} ^ a~v rendu%T~v {T:o} {B:i}
  {A} 把 {T} 还给~v 了 {B}
show | person | held other | T=held B=other
  | weight=24 salience=2 after=got
  {A} showed~v {T} {B:to}
  {A} ^ a~v montré%T~v {T:o} {B:i}
  {A} 把 {T} 给~B.prep {B} 看~v 了
throw | person | held_throw other | T=held:throw B=other
  hold B T | weight=100 salience=3 after=got
  {A} threw~v {T} {B:to}
  {A} ^ a~v lancé%T~v {T:o} {B:i}
  {A} 把 {T} 扔给~v 了 {B}
sell | person | held other | T=held B=other
  hold B T | weight=24 salience=4 after=got
  {A} sold~v {T} {B:to}
  {A} ^ a~v vendu%T~v {T:o} {B:i}
  {A} 把 {T} 卖给~v 了 {B}
steal | person | held_by_other | T=held_by_other B=holder:T
  owe T B; hold A T; feel B -1 | weight=40 salience=5 after=got
  {A} stole~v {T} {B:from}
  {A} ^ a~v volé%T~v {T:o} {B:i}
  {A} {B:from} 偷走~v 了 {T}
take | person | held_by_other | T=held_by_other B=holder:T
  owe T B; hold A T; feel B -1 | weight=24 salience=4 after=got
  {A} took~v {T} {B:from}
  {A} ^ a~v pris%T~v {T:o} {B:i}
  {A} {B:from} 拿走~v 了 {T}
borrow | person | held_by_other | T=held_by_other B=holder:T
  owe T B; hold A T | weight=40 salience=4 after=got
  {A} borrowed~v {T} {B:from}
  {A} ^ a~v emprunté%T~v {T:o} {B:i}
  {A} {B:from} 借~v 了 {T}
"""

# Losing, breaking, mending.
LOSING = """
lose | person | held | T=held
  lose A T; feel A -1 | weight=30 salience=4
  {A} lost~v {T}
  {A} ^ a~v perdu%T~v {T:o}
  {A} 把 {T} 弄丢~v 了
lose_own | person | placed | T=own:carry
  lose A T; feel A -1 | weight=6 salience=4
  {A} lost~v {T}
  {A} a~v perdu~v {T:o}
  {A} 弄丢~v 了 {T}
look_for | person | lost | T=lost P=here
  | weight=30 salience=2 after=lose,lose_own,not_find
  {A} looked~v for~v {T} {P:in}
  {A} ^ a~v cherché%T~v {T:o} {P:in}
  {A} {P:in} 找~v 了 {T}
not_find | person | lost | T=lost
  feel A -1 | weight=14 salience=3 after=look_for no_opener
  {A} did~n not~n find~v {T}
  {A} ne~n ^ a~v pas~n trouvé%T~v {T:o}
  {A} 没有~n 找到~v {T}
find_again | person | lost | T=lost P=here
  hold A T; feel A 1 | weight=24 salience=5 after=look_for
  {A} found~v {T} {P:in} again~v
  {A} ^ a~v retrouvé%T~v {T:o} {P:in}
  {A} {P:in} 又 找到~v 了 {T}
leave | person | held | T=held P=here
  leave T P | weight=40 salience=3
  {A} left~v {T} {P:in}
  {A} ^ a~v laissé%T~v {T:o} {P:in}
  {A} 把 {T} 留~v {P:in}
break | person | held_break | T=held:break
  break T; feel A -1 | weight=60 salience=4
  {A} broke~v {T}
  {A} ^ a~v cassé%T~v {T:o}
  {A} 把 {T} 弄坏~v 了
repair | person | broken | T=broken
  repair T; feel A 1 | weight=150 salience=4 after=break
  {A} repaired~v {T}
  {A} ^ a~v réparé%T~v {T:o}
  {A} 把 {T} 修好~v 了
repair_for | person | broken_by_other | T=broken_by_other B=holder:T
  repair T; feel B 1 | weight=150 salience=5 after=break
  {A} repaired~v {T} {B:for}
  {A} ^ a~v réparé%T~v {T:o} pour~B.prep {B:p}
  {A} 帮~B.prep {B} 修好~v 了 {T}
"""

# What things are for.
USING = """
eat | person | held_food | T=held:food
  gone T | weight=60 salience=2 after=got
  {A} ate~v {T}
  {A} ^ a~v mangé%T~v {T:o}
  {A} 把 {T} 吃~v 了
eat_new | person | placed | T=new:food
  gone T | salience=2
  {A} ate~v {T}
  {A} a~v mangé~v {T:o}
  {A} 吃~v 了 {T}
share | person | held_food other | T=held:food B=other
  gone T; feel A 1; feel B 1 | weight=80 salience=4 after=got
  {A} shared~v {T} {B:with}
  {A} ^ a~v partagé%T~v {T:o} avec~B.prep {B:p}
  {A} 和~B.prep {B} 分享~v 了 {T}
fill_basket | person | held_peel | T=held:peel
  gone T | weight=60
  {A} put~v {T} into~i a~d basket~k
  {A} ^ a~v mis%T~v {T:o} dans~i un~d panier~k
  {A} 把 {T} 放进~v 一个~d 篮子~k 里~i
peel | person | held_peel | T=held:peel
  | weight=90
  {A} peeled~v {T}
  {A} ^ a~v épluché%T~v {T:o}
  {A} 给 {T} 剥~v 了 皮~v
wash | person | held_wash | T=held:wash
  | weight=40
  {A} washed~v {T}
  {A} ^ a~v lavé%T~v {T:o}
  {A} 洗~v 了 {T}
put_on | person | held_wear | T=held:wear
  | weight=90
  {A} put~v {T} on~v
  {A} ^ a~v mis%T~v {T:o}
  {A} 穿上~v 了 {T}
read | person | held_read | T=held:read
  | weight=90
  {A} read~v {T}
  {A} ^ a~v lu%T~v {T:o}
  {A} 读~v 了 {T}
write | person | other | T=plain:write B=other
  hold A T | weight=4 salience=3
  {A} wrote~v {T} {B:to}
  {A} ^ a~v écrit~v {T:o} {B:i}
  {A} 给~B.prep {B} 写~v 了 {T}
play_music | person | held_play | T=held:play
  feel A 1 | weight=120 salience=2
  {A} played~v {T:full}
  {A} a~v joué~v {T:de}
  {A} 演奏~v 了 {T}
ride | person | held_ride | T=held:ride P=place
  at A P; feel A 1 | weight=100 salience=3
  {A} rode~v {T:full} {P:to}
  {A} a~v pris~v {T:full} pour~v aller~v {P:in}
  {A} 骑~v {T} 去 了 {P}
"""

# Between people.
PEOPLE = """
meet | person | placed people_left | B=new_person P=here
  at B P | weight=8 salience=2
  {A} met~v {B} {P:in}
  {A} a~v rencontré~v {B:o} {P:in}
  {A} {P:in} 遇见~v 了 {B}
greet | person | other | B=other
  | weight=2 after=come,meet
  {A} greeted~v {B}
  {A} ^ a~v salué%B~v {B:o}
  {A} 问候~v 了 {B}
help | person | other | B=other
  feel B 1 | weight=4 salience=2
  {A} helped~v {B}
  {A} ^ a~v aidé%B~v {B:o}
  {A} 帮助~v 了 {B}
hug | person | other | B=other
  feel A 1; feel B 1 | weight=2 salience=2 after=buy_for,give,give_back,repair_for
  {A} hugged~v {B}
  {A} ^ a~v serré%B~v {B:o} dans~v ses~v bras~v
  {A} 拥抱~v 了 {B}
wave | person | other | B=other
  | weight=2
  {A} waved~v {B:to}
  {A} ^ a~v fait~v signe~v {B:i}
  {A} 向~B.prep {B} 挥~v 了 挥~v 手~v
smile | person | other | B=other
  feel B 1 | weight=2
  {A} smiled~v {B:at}
  {A} ^ a~v souri~v {B:i}
  {A} 对~B.prep {B} 笑~v 了 笑~v
argue | person | other | B=other
  feel A -1; feel B -1 | weight=4 salience=3 after=steal,take
  {A} argued~v {B:with}
  {A} s'~v est~v disputé@A~v avec~B.prep {B:p}
  {A} 和~B.prep {B} 吵~v 了 架~v
laugh_at | person | other | B=other
  feel B -1 | weight=4 salience=3 after=break,lose
  {A} laughed~v {B:at}
  {A} s'~v est~v moqué@A~v {B:de}
  {A} 嘲笑~v 了 {B}
thank | person | gift | T=gift B=giver:T
  feel B 1 | weight=150 salience=2 after=buy_for,give
  {A} thanked~v {B} for~p {T:full}
  {A} ^ a~v remercié%B~v {B:o} pour~p {T:p}
  {A} 为~p {T} 感谢~v 了 {B}
chase_person | person | other | B=other
  | weight=3
  {A} chased~v {B}
  {A} ^ a~v poursuivi%B~v {B:o}
  {A} 追赶~v 了 {B}
play_together | person | other | B=other P=here
  feel A 1; feel B 1 | salience=3
  {AB} played~v {P:in}
  {AB} ont~v joué~v {P:in}
  {AB} {P:in} 玩耍~v
dance_together | person | other | B=other
  feel A 1; feel B 1 | weight=4 salience=2
  {AB} danced~v
  {AB} ont~v dansé~v
  {AB} 跳~v 了 舞~v
tell_where | person | other known_thing | B=other T=known_thing P=place_of:T
  | weight=24 salience=2
  {A} told~v {B} that~t {T:full} was@T~w {P:in}
  {A} ^ a~v dit~v {B:i} que~t {T:full} était@T~w {P:in}
  {A} 告诉~v {B} {T} {P:in}
sing | person | placed |
  feel A 1 | weight=2 repeats
  {A} sang~v a~d song~s
  {A} a~v chanté~v une~d chanson~s
  {A} 唱~v 了 一首~d 歌~s
sleep | person | at_sleep | P=here
  | weight=8
  {A} slept~v {P:in}
  {A} a~v dormi~v {P:in}
  {A} {P:in} 睡~v 了 一觉~v
swim | person | at_water |
  feel A 1 | weight=8
  {A} swam~v
  {A} a~v nagé~v
  {A} 游~v 了 泳~v
sit_grass | person | at_grass |
  | weight=5
  {A} sat~v on~o the~d grass~g
  {A} s'~v est~v assis@A~v sur~o l'~d herbe~g
  {A} 坐~v 在~o 草~g 上~o
"""

# The two who did the last thing together, told as *they*.
TOGETHER = """
they_go | pair | other | P=place
  at A P; at B P | weight=16
  {AB} went~v {P:to}
  {AB} sont~v allé@AB~v {P:in}
  {AB} 去~v 了 {P}
they_run | pair | other | P=place
  at A P; at B P
  {AB} ran~v {P:to}
  {AB} ont~v couru~v {P:until}
  {AB} 跑到~v 了 {P}
they_play | pair | other | P=here
  feel A 1; feel B 1 | salience=2
  {AB} played~v {P:in}
  {AB} ont~v joué~v {P:in}
  {AB} {P:in} 玩耍~v
they_dance | pair | other |
  feel A 1; feel B 1
  {AB} danced~v
  {AB} ont~v dansé~v
  {AB} 跳~v 了 舞~v
they_sing | pair | other |
  feel A 1; feel B 1
  {AB} sang~v a~d song~s
  {AB} ont~v chanté~v une~d chanson~s
  {AB} 唱~v 了 一首~d 歌~s
they_laugh | pair | other |
  feel A 1; feel B 1
  {AB} laughed~v
  {AB} ont~v ri~v
  {AB} 笑~v 了
they_talk | pair | other |
  | weight=4
  {AB} talked~v
  {AB} ont~v bavardé~v
  {AB} 聊~v 了 天~v
they_glad | pair | glad other | F=adjective:glad
  word A F; word B F | weight=16 no_opener
  {AB} were~v {F}
  {AB} étaient~v {F@AB}
  {AB} 很~v {F}
they_need | pair | other | F=adjective:need
  word A F; word B F | weight=4 no_opener
  {AB} were~v {F}
  {AB} étaient~v {F@AB}
  {AB} 很~v {F}
"""

# Animals.
ANIMALS_ACT = """
see_animal | person | placed animals_left | N=new_animal P=here
  at N P | weight=8 salience=2
  {A} saw~v {N} {P:in}
  {A} a~v vu~v {N:o} {P:in}
  {A} {P:in} 看见~v 了 {N}
chase | person | animal_here | N=animal_here
  | weight=8 salience=2
  {A} chased~v {N}
  {A} ^ a~v poursuivi%N~v {N:o}
  {A} 追赶~v 了 {N}
feed | person | animal_here | N=animal_here
  feel N 1 | weight=8 salience=2
  {A} fed~v {N}
  {A} ^ a~v nourri%N~v {N:o}
  {A} 喂~v 了 {N}
stroke | person | animal_here | N=animal_here
  feel A 1; feel N 1 | weight=8 salience=2
  {A} stroked~v {N}
  {A} ^ a~v caressé%N~v {N:o}
  {A} 抚摸~v 了 {N}
chased_by | animal | person_here | B=person_here
  feel B -1 | weight=8 salience=3
  {A} chased~v {B}
  {A} ^ a~v poursuivi%B~v {B:o}
  {A} 追赶~v 了 {B}
bite | animal | person_here | B=person_here
  feel B -1 | weight=5 salience=4
  {A} bit~v {B}
  {A} ^ a~v mordu%B~v {B:o}
  {A} 咬~v 了 {B}
lick | animal | person_here | B=person_here
  feel B 1 | weight=5 salience=2
  {A} licked~v {B}
  {A} ^ a~v léché%B~v {B:o}
  {A} 舔~v 了 {B}
frighten | animal | person_here | B=person_here
  feel B -1 | weight=5 salience=3
  {A} frightened~v {B}
  {A} ^ a~v fait~v peur~v {B:i}
  {A} 吓到~v 了 {B}
chase_animal | animal | other_animal | N=other_animal
  | weight=20 salience=2
  {A} chased~v {N}
  {A} ^ a~v poursuivi%N~v {N:o}
  {A} 追赶~v 了 {N}
animal_sleep | animal | placed | P=here
  | weight=5
  {A} slept~v {P:in}
  {A} a~v dormi~v {P:in}
  {A} {P:in} 睡~v 了 一觉~v
animal_eat | animal | loose_food | T=loose:food
  gone T | weight=60 salience=2
  {A} ate~v {T}
  {A} ^ a~v mangé%T~v {T:o}
  {A} 把 {T} 吃~v 了
animal_need | animal | placed | F=adjective:need
  word A F | weight=5 salience=0 no_opener
  {A} was~v {F}
  {A} était~v {F@A}
  {A} 很~v {F}
"""

# Feelings, told and said, with and without a cause.
FEELINGS = """
feel_glad | person | glad | F=adjective:glad
  word A F | weight=14 after=joy no_opener
  {A} was~v {F}
  {A} était~v {F@A}
  {A} 很~v {F}
feel_sorry | person | sorry | F=adjective:sorry
  word A F | weight=16 after=hurt no_opener
  {A} was~v {F}
  {A} était~v {F@A}
  {A} 很~v {F}
feel_need | person | placed | F=adjective:need
  word A F | weight=3 no_opener
  {A} was~v {F}
  {A} était~v {F@A}
  {A} 很~v {F}
say_glad | person | glad | F=adjective:glad
  word A F | weight=8 no_opener
  “~q I~i am~v {F} ,~c ”~p said~s {A:full}
  «~q Je~i suis~v {F@A} »~p ,~c a~s dit~s {A:full}
  “~q 我~i 很~v {F} ，~c ”~p {A} 说~s
say_sorry | person | sorry | F=adjective:sorry
  word A F | weight=8 no_opener
  “~q I~i am~v {F} ,~c ”~p said~s {A:full}
  «~q Je~i suis~v {F@A} »~p ,~c a~s dit~s {A:full}
  “~q 我~i 很~v {F} ，~c ”~p {A} 说~s
say_need | person | placed | F=adjective:need
  word A F | weight=3 no_opener
  {A} said~s that~t {A:pro} was~v {F}
  {A} a~s dit~s que~t {A:pro} était~v {F@A}
  {A} 说~s {A:pro} 很~v {F}
glad_of_gift | person | gift_opposite | F=adjective:glad T=gift_opposite B=giver:T
  word A F | weight=120 salience=3 after=buy_for,give no_opener
  {A} was~v {F} because~b {B:full} gave~g {A:her} {T:full}
  {A} était~v {F@A} parce~b que~b {B:full} {A:lui} avait~g donné~g {T:o}
  {A} 很~v {F} ， 因为~b {B} 送给~g 了 {A:pro} {T}
sad_of_loss | person | lost | F=adjective:sorry T=lost
  word A F | weight=30 salience=3 no_opener
  {A} was~v {F} because~b {A:pro} had~h lost~l {T:full}
  {A} était~v {F@A} parce~b que~b {A:pro} avait~h perdu~l {T:o}
  {A} 很~v {F} ， 因为~b {A:pro} 弄丢~l 了~h {T}
"""

# What was not done, and why: the adjective alone tells what *it* means.
REASONS = """
not_cross_person_self | person | placed | X=scenery:barrier F=adjective:tired_too
  word A F | weight=1 salience=2 no_opener
  {A} did~n not~n cross~v {X} because~b {A:pro} was~w too~o {F}
  {A} ne~n a~v pas~n traversé~v {X} parce~b que~b {A:pro} était~w trop~o {F@A}
  {A} 没有~n 过~v {X} ， 因为~b {A:pro} 太~o {F} 了
not_cross_animal_self | animal | placed | X=scenery:barrier F=adjective:tired_too
  word A F | weight=14 salience=2 no_opener
  {A} did~n not~n cross~v {X} because~b {A:pro} was~w too~o {F}
  {A} ne~n a~v pas~n traversé~v {X} parce~b que~b {A:pro} était~w trop~o {F@A}
  {A} 没有~n 过~v {X} ， 因为~b {A:pro} 太~o {F} 了
not_cross_person_other | person | placed | X=scenery:barrier F=too:X
  | weight=1 salience=2 no_opener
  {A} did~n not~n cross~v {X} because~b {X:pro} was~w too~o {F}
  {A} ne~n a~v pas~n traversé~v {X} parce~b que~b {X:pro} était~w trop~o {F@X}
  {A} 没有~n 过~v {X} ， 因为~b {X:pro} 太~o {F} 了
not_cross_animal_other | animal | placed | X=scenery:barrier F=too:X
  | weight=14 salience=2 no_opener
  {A} did~n not~n cross~v {X} because~b {X:pro} was~w too~o {F}
  {A} ne~n a~v pas~n traversé~v {X} parce~b que~b {X:pro} était~w trop~o {F@X}
  {A} 没有~n 过~v {X} ， 因为~b {X:pro} 太~o {F} 了
not_fit_thing | person | held_carry | T=held:carry Y=new:box F=adjective:thing_too
  gone Y | weight=5 salience=2 no_opener
  {A} could~n not~n put~v {T:full} into~i {Y} because~b {T:pro} was@T~w too~o {F}
  {A} ne~n a~n pas~n pu~n mettre~v {T:full} dans~i {Y:o} parce~b que~b {T:pro} était@T~w trop~o {F@T}
  {A} 没~n 能~n 把 {T} 放~v 进~i {Y} 里~i ， 因为~b {T:pro} 太~o {F} 了
not_fit_box | person | held_carry | T=held:carry Y=new:box F=adjective:box_too
  gone Y | weight=5 salience=2 no_opener
  {A} could~n not~n put~v {T:full} into~i {Y} because~b {Y:pro} was~w too~o {F}
  {A} ne~n a~n pas~n pu~n mettre~v {T:full} dans~i {Y:o} parce~b que~b {Y:pro} était~w trop~o {F@Y}
  {A} 没~n 能~n 把 {T} 放~v 进~i {Y} 里~i ， 因为~b {Y:pro} 太~o {F} 了
not_eat_self | animal | loose_food | T=loose:food F=adjective:tired_too
  word A F | weight=100 no_opener
  {A} did~n not~n eat~v {T:full} because~b {A:pro} was~w too~o {F}
  {A} ne~n a~v pas~n mangé~v {T:full} parce~b que~b {A:pro} était~w trop~o {F@A}
  {A} 没有~n 吃~v {T} ， 因为~b {A:pro} 太~o {F} 了
not_eat_food | animal | loose_food | T=loose:food F=adjective:taste_too
  | weight=100 no_opener
  {A} did~n not~n eat~v {T:full} because~b {T:pro} was@T~w too~o {F}
  {A} ne~n a~v pas~n mangé~v {T:full} parce~b que~b {T:pro} était@T~w trop~o {F@T}
  {A} 没有~n 吃~v {T} ， 因为~b {T:pro} 太~o {F} 了
not_buy_price | person | at_shop | T=new:buy F=adjective:price_too
  gone T; feel A -1 | weight=8 salience=2 no_opener
  {A} wanted~n to~n buy~v {T} ,~c but~b {T:pro} was@T~w too~o {F}
  {A} voulait~n acheter~v {T:o} ,~c mais~b {T:pro} était@T~w trop~o {F@T}
  {A} 想~n 买~v {T} ，~c 但是~b {T:pro} 太~o {F} 了
not_buy_poor | person | at_shop | T=new:buy F=adjective:poor_too
  gone T; feel A -1 | weight=8 salience=2 no_opener
  {A} wanted~n to~n buy~v {T} ,~c but~b {A:pro} was~w too~o {F}
  {A} voulait~n acheter~v {T:o} ,~c mais~b {A:pro} était~w trop~o {F@A}
  {A} 想~n 买~v {T} ，~c 但是~b {A:pro} 太~o {F} 了
"""

# The bank of a river.
RIVER_BANK = """
sit_on_bank | person | in_river | P=river_bank X=scenery:water
  at A P | weight=24
  {A} sat~v {P:in} and~a watched~w {X}
  {A} s'~v est~v assis@A~v {P:in} et~a a~w regardé~w {X}
  {A} 坐~v {P:in} 看~w 着~a {X}
fish_from_bank | person | in_river | P=river_bank
  at A P; feel A 1 | weight=20 salience=3
  {A} caught~v a~d fish~f {P:from}
  {A} a~v attrapé~v un~d poisson~f depuis~P.prep {P}
  {A} {P:in} 抓~v 了 一条~d 鱼~f
tie_boat | person | in_river | P=river_bank
  at A P | weight=16 salience=2
  {A} tied~v a~d boat~t {P:to}
  {A} a~v attaché~v un~d bateau~t {P:at}
  {A} 把 一艘~d 船~t 系~v {P:in}
water_rises | world | in_river | P=river_bank
  | weight=10 salience=0
  the~d water~t rose~v over~o {P}
  l'~d eau~t a~v recouvert~v {P}
  水~t 漫过~v 了~o {P:bare}
bank_is_wet | world | in_river | P=river_bank F=adjective:river_bank
  | weight=16 salience=0 no_opener
  {P} of~f the~d river~r was~v {F}
  {P} de~f la~d rivière~r était~v {F@P}
  {P:bare} 很~v {F}
"""

# The bank with the money.
MONEY_BANK = """
pay_in | person | in_town | P=money_bank
  at A P | weight=16
  {A} went~v {P:to} to~q pay~p in~p some~d coins~c
  {A} est~v allé@A~v {P:in} pour~q déposer~p des~d pièces~c
  {A} 去~v {P} 存~p 了 一些~d 硬币~c
open_account | person | in_town | P=money_bank
  at A P | weight=16 salience=2
  {A} opened~v an~d account~c {P:in}
  {A} a~v ouvert~v un~d compte~c {P:in}
  {A} {P:in} 开~v 了 一个~d 账户~c
bank_lends | person | in_town | P=money_bank
  feel A 1 | weight=12 salience=3
  {P} lent~v {A:o} some~d money~m
  {P} ^ a~v prêté~v de~d l'~d argent~m {A:i}
  {P} 借给~v 了 {A} 一些~d 钱~m
clerk_counts | world | in_town | P=money_bank X=scenery:money
  | weight=16 salience=0
  the~d clerk~k {P:in} counted~v {X}
  l'~d employé~k {P:of} a~v compté~v {X}
  {P} 的~P.prep 职员~k 数~v 了 {X}
bank_is_closed | world | in_town | P=money_bank F=adjective:money_bank
  | weight=10 salience=0 no_opener
  the~d clerk~k said~s that~t {P} was~v {F}
  l'~d employé~k a~s dit~s que~t {P} était~v {F@P}
  职员~k 说~s {P} {F} 了~v
"""

# Apple, which makes phones.
APPLE = """
apple_store | world | in_town |
  | weight=26 salience=0
  Apple~a opened~v a~d store~s in~i town~t
  Apple~a a~v ouvert~v une~d boutique~s en~i ville~t
  苹果~a 在~i 城里~t 开~v 了 一家~d 商店~s
apple_phone | world | in_town |
  | weight=26 salience=0
  Apple~a presented~v a~d new~n phone~p
  Apple~a a~v présenté~v un~d nouveau~n téléphone~p
  苹果~a 发布~v 了 一部~d 新~n 手机~p
works_for_apple | person | in_town |
  | weight=26 no_opener
  {A} works~v for~f Apple~a
  {A} travaille~v chez~f Apple~a
  {A} 在~f 苹果~a 上班~v
buy_phone | person | at_shop | T=new:phone P=here
  hold A T; feel A 1 | weight=90 salience=3
  {A} bought~v {T} {P:in}
  {A} a~v acheté~v {T:o} {P:in}
  {A} {P:in} 买~v 了 {T}
charge_phone | person | held_phone | T=held:phone
  | weight=100
  {A} charged~v {T:full}
  {A} a~v rechargé~v {T:full}
  {A} 给 {T} 充~v 了 电~v
call | person | held_phone acquaintance | B=acquaintance T=held:phone
  | weight=100 salience=2
  {A} called~v {B} with~w {T:full}
  {A} ^ a~v appelé%B~v {B:o} avec~w {T:full}
  {A} 用~w {T} 给 {B} 打~v 了 电话~v
screen | person | held_phone | T=held:phone F=adjective:screen
  | weight=60 salience=0 no_opener
  the~d screen~s of~o {T:full} was~v {F}
  l'~d écran~s {T:of} était~v {F}
  {T} 的~o 屏幕~s 很~v {F}
"""

# The weather.
SKY = """
rain | world | |
  | weight=3 salience=0
  it~i rained~v
  il~i a~v plu~v
  下~v 雨~v 了
snow | world | |
  | weight=2 salience=0
  it~i snowed~v
  il~i a~v neigé~v
  下~v 雪~v 了
sun | world | |
  | weight=3 salience=0
  the~d sun~s shone~v
  le~d soleil~s a~v brillé~v
  太阳~s 照耀~v 着
wind | world | |
  | weight=2 salience=0
  the~d wind~s blew~v
  le~d vent~s a~v soufflé~v
  刮~v 风~s 了
weather | world | | F=adjective:weather
  | weight=4 salience=0 no_opener
  the~d weather~s was~v {F}
  le~d temps~s était~v {F}
  天气~s 很~v {F}
"""

# How things stand, in the present.
NOW = """
now_has | person | held | T=held
  | weight=16 salience=2 no_opener
  Now~n {A} has~v {T}
  Maintenant~n {A} ^ a~v {T:o}
  现在~n {T} 在~v {A} 手~v 里~v
now_is | world | known_thing | T=known_thing P=place_of:T
  | salience=2 no_opener
  Now~n {T:full} is@T~v {P:in}
  Maintenant~n {T:full} est@T~v {P:in}
  现在~n {T} {P:in}
"""

TABLES = (
    BEGINNINGS,
    MOTION,
    GETTING,
    GIVING,
    LOSING,
    USING,
    PEOPLE,
    TOGETHER,
    ANIMALS_ACT,
    FEELINGS,
    REASONS,
    RIVER_BANK,
    MONEY_BANK,
    APPLE,
    SKY,
    NOW,
)
