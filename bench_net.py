import torch,time
from aimt.models.flow.unet import UNet,UNetConfig
from aimt.models.flow.flow_matching import Condition
torch.set_num_threads(1)
def run(cfg,shape,dt,fmt,B=64):
    net=UNet(cfg).eval(); n=net.n_parameters()
    x=torch.randn(B,1,*shape); p=torch.randn(B,cfg.planes,*shape)
    if fmt: net=net.to(memory_format=torch.channels_last); x=x.to(memory_format=torch.channels_last); p=p.to(memory_format=torch.channels_last)
    t=torch.rand(B); c=Condition(planes=p)
    with torch.no_grad(), torch.autocast('cpu',torch.bfloat16,enabled=dt):
        net(x,t,c); s=time.process_time()
        for _ in range(3): net(x,t,c)
        e=(time.process_time()-s)/3/B
    xg=x; 
    net.train()
    def step():
        with torch.autocast('cpu',torch.bfloat16,enabled=dt): l=(net(x,t,c)-x).square().mean()
        l.backward()
    step(); s=time.process_time(); step(); tr=(time.process_time()-s)
    print(cfg.width,cfg.factors,cfg.blocks,cfg.patch,shape,n,'bf16' if dt else 'fp32',fmt,'eval ms/design',round(e*1e3,3),'train s/batch64',round(tr,3))
for cfg in (UNetConfig(width=32,factors=(1,2,2),planes=12),UNetConfig(width=32,factors=(1,2,4),planes=12,attention=True),UNetConfig(width=48,factors=(1,2,2),planes=12,patch=2,attention=True),UNetConfig(width=64,factors=(1,2,2),planes=12,patch=2)):
    for dt in (False,True):
        for fmt in (False,True): run(cfg,(16,32),dt,fmt)
