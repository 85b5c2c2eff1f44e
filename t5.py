import torch, itertools, torch.nn.functional as F
from aimt.models.flow.masked_diffusion import *
L,C=5,3
states = torch.tensor(list(itertools.product(range(C), repeat=L)))
p = torch.softmax(1.2 * (states == states.roll(1, 1)).sum(1).double(), 0)
entropy = float(-(p * p.log()).sum() / L)
onehot = F.one_hot(states, C).movedim(-1, 1).float()
def exact(x, time=None, condition=None):
    fits = (torch.einsum("bcl,scl->bs", x, onehot) == x.sum((1, 2))[:, None]).double() * p
    return torch.einsum("bs,scl->bcl", fits / fits.sum(1, keepdim=True), onehot.double()).clamp(min=1e-30).log().float()
for s in range(5):
    g=torch.Generator().manual_seed(s)
    data = onehot[torch.multinomial(p.float(), 8000, replacement=True, generator=g)]
    emp=float(-(p.log()[(data.argmax(1)*C**torch.arange(L-1,-1,-1)).sum(1)]).mean()/L)
    o=MaskedDiffusion(); print(entropy,emp,float(o.loss(exact,data,None,o.draw(tuple(data.shape),g))))
