import time, random, sys
from aimt.data.design.plan_brief import *
from aimt.data.design.plan_rules import *
from aimt.data.design.plan_search import *
rng=random.Random(1); t=time.process_time(); ex=[]; tried=0
while len(ex)<60:
    tried+=1
    e=make_example(rng)
    if e: ex.append(e)
print(len(ex),tried,(time.process_time()-t)/len(ex))
import pickle; pickle.dump(ex,open('/tmp/d3work/ex.pkl','wb'))
for p,b in ex[:6]:
    f=judge_plan(p,b); print(f.faults,f.area,f.missing,f.corners,len(b.rooms),b.windows,len(b.adjacent))
    for row in p[::-1]:
        s="".join(".HLKBSWXYZ"[k+1] for k in row)
        if s.strip("."): print(s)
res=[]
for i,(p,b) in enumerate(ex[:40]):
    r=search_plan(b,seconds=4,seed=i,steps=6000); res.append((r.met,r.seconds))
import numpy as np
m=np.array(res); print("met",m[:,0].mean(), "quantiles of time", np.quantile(np.where(m[:,0]>0,m[:,1],9),[.1,.25,.5,.75,.9]), "total",m[:,1].sum())
