import time, random, sys
from aimt.data.design.plan_brief import *
from aimt.data.design.plan_rules import *
from aimt.data.design.plan_search import *
flat = {"site": "9 x 7.2","windows": "south west","entrance": "north 5.4",
    "rooms": "Hall hall; Living room living 22; Kitchen kitchen 8; Bedroom bedroom 13; Study study 8; Bathroom bathroom 5",
    "adjacent": "Living room-Kitchen; Hall-Bathroom"}
b=read_plan_brief(flat)
for steps in (3000,12000,40000):
  for s in range(4):
    t=time.process_time(); r=search_plan(b,seconds=8,seed=s,steps=steps,restarts=1); 
    print(steps,s,r.met,round(r.penalty,2),r.steps,round(time.process_time()-t,2), judge_plan(to_plan(r.masks),b).faults[:2])
L="HLKBSW."
p=to_plan(r.masks)
for row in p[::-1]:
    print("".join(L[k] for k in row))
