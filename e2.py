exec(open('/tmp/flow/exp.py').read())
import aimt.models.flow.flow_network as fnw
limit=float(sys.argv[1])
for name,freq,obj in (("fm",10.,FlowMatching()),("mf p0",10.,MeanFlow()),("mf p1",10.,MeanFlow(power=1.0)),("mf p.5 sh.25",10.,MeanFlow(power=.5,share=.25)))[int(sys.argv[2]):int(sys.argv[3])]:
    fnw.MAX_FREQUENCY=freq
    torch.manual_seed(1)
    net=UNet(UNetConfig(width=32,factors=(1,2),patch=2,n_classes=10,duration=isinstance(obj,MeanFlow)))
    t=train_generator(net,tr,te,objective=obj,time_limit=limit,clock=time.process_time,settings=GeneratorSettings(batch_size=64))
    m=t.measured; print(name,freq,m['steps'],f"{m['cpu_seconds']:.0f}s params {m['parameters']:,} valid {m['valid_loss']:.4f} ref {m['reference_loss']:.4f} {m['precision']}")
    c=Condition(lab[:500])
    for meth,st,g in (("euler",12,1.),("mean",1,1.),("mean",2,1.)):
        if meth=="mean" and name=="fm": continue
        with torch.autocast('cpu',torch.bfloat16):
            s0=time.process_time(); s=sample_flow(net,(500,1,16,16),c,steps=st,method=meth,guidance=g,generator=torch.Generator().manual_seed(5)); dt=time.process_time()-s0
        print("  ",meth,st,g,score(s),f"{dt:.2f}s")
