"""The recurrent cells of the literature."""

from __future__ import annotations

from .cells import Known

CELLS = {
    "token shift": Known(
        """
        state s: [C]
        s'[c] = x[c]
        y[c] = s[c]*mu[c] + x[c]
        """,
        "s: delay",
    ),
    "conv, 3 delays": Known(
        """
        state s1: [C]
        state s2: [C]
        s1'[c] = x[c]
        s2'[c] = s1[c]
        y[c] = x[c]*w0[c] + s1[c]*w1[c] + s2[c]*w2[c]
        """,
        "s1: delay | s2: delay",
    ),
    "RWKV-4, plain": Known(
        """
        state a: [C]
        state b: [C]
        a'[c] = exp(-dec[c])*a[c] + exp(k[c])*v[c]
        b'[c] = exp(-dec[c])*b[c] + exp(k[c])
        y[c] = (a[c] + exp(u[c] + k[c])*v[c]) / (b[c] + exp(u[c] + k[c]))
        """,
        "a: diagonal/scan decay=value | b: diagonal/scan decay=value",
    ),
    "RWKV-4, running max": Known(
        """
        state p: [C]
        state a: [C]
        state b: [C]
        q[c] = max(p[c], u[c] + k[c])
        e1[c] = exp(p[c] - q[c])
        e2[c] = exp(u[c] + k[c] - q[c])
        y[c] = (e1[c]*a[c] + e2[c]*v[c]) / (e1[c]*b[c] + e2[c])
        p'[c] = max(p[c] - dec[c], k[c])
        a'[c] = exp(p[c] - dec[c] - p'[c])*a[c] + exp(k[c] - p'[c])*v[c]
        b'[c] = exp(p[c] - dec[c] - p'[c])*b[c] + exp(k[c] - p'[c])
        """,
        "p: max-plus | a: diagonal/scan decay=value | b: diagonal/scan decay=value",
    ),
    "RWKV-5": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = exp(-exp(w0[h,j]))*S[h,i,j] + v[h,i]*k[h,j]
        y[h,i] = sum[j]((S[h,i,j] + u[h,j]*v[h,i]*k[h,j])*r[h,j])
        """,
        "S: diagonal/chunk decay=key key=j value=i",
    ),
    "RWKV-6": Known(
        """
        state S: [H, I, J]
        w[h,j] = exp(-exp(wx[h,j]))
        S'[h,i,j] = w[h,j]*S[h,i,j] + v[h,i]*k[h,j]
        y[h,i] = sum[j]((S[h,i,j] + u[h,j]*v[h,i]*k[h,j])*r[h,j])
        """,
        "S: diagonal/chunk decay=key key=j value=i",
    ),
    "RWKV-7": Known(
        """
        state S: [H, I, J]
        w[h,j] = exp(-0.606531*sigmoid(wx[h,j]))
        S'[h,i,j] = S[h,i,j]*w[h,j] - sum[m](S[h,i,m]*kk[h,m])*kk[h,j]*a[h,j] + v[h,i]*k[h,j]
        y[h,i] = sum[j](S'[h,i,j]*r[h,j])
        """,
        "S: delta/chunk decay=key key=j value=i rank=1",
    ),
    "RetNet": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = gamma[h]*S[h,i,j] + v[h,i]*k[h,j]
        y[h,i] = sum[j](S'[h,i,j]*r[h,j])
        """,
        "S: diagonal/chunk decay=scalar key=j value=i",
    ),
    "GLA": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = sigmoid(g[h,j])*S[h,i,j] + v[h,i]*k[h,j]
        y[h,i] = sum[j](S'[h,i,j]*r[h,j])
        """,
        "S: diagonal/chunk decay=key key=j value=i",
    ),
    "GLA, gates on both axes": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = sigmoid(g[h,j])*sigmoid(f[h,i])*S[h,i,j] + v[h,i]*k[h,j]
        y[h,i] = sum[j](S'[h,i,j]*r[h,j])
        """,
        "S: diagonal/chunk decay=key*value key=j value=i",
    ),
    "HGRN2": Known(
        """
        state S: [H, I, J]
        f[h,j] = sigmoid(fx[h,j])
        S'[h,i,j] = f[h,j]*S[h,i,j] + v[h,i]*(1 - f[h,j])
        y[h,i] = sum[j](S'[h,i,j]*r[h,j])
        """,
        "S: diagonal/chunk decay=key key=j value=i",
    ),
    "Mamba-2": Known(
        """
        state S: [H, I, N]
        dt[h] = log(1 + exp(dx[h]))
        S'[h,i,n] = exp(-dt[h]*exp(al[h]))*S[h,i,n] + dt[h]*x[h,i]*bb[n]
        y[h,i] = sum[n](S'[h,i,n]*cc[n]) + dd[h]*x[h,i]
        """,
        "S: diagonal/chunk decay=scalar key=n value=i",
    ),
    "Mamba-1": Known(
        """
        state S: [C, N]
        dt[c] = log(1 + exp(dx[c]))
        S'[c,n] = exp(-dt[c]*exp(al[c,n]))*S[c,n] + dt[c]*x[c]*bb[n]
        y[c] = sum[n](S'[c,n]*cc[n]) + dd[c]*x[c]
        """,
        "S: diagonal/scan decay=key key=n value=-",
    ),
    "DeltaNet": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = S[h,i,j] - be[h]*(sum[m](S[h,i,m]*k[h,m]) - v[h,i])*k[h,j]
        y[h,i] = sum[j](S'[h,i,j]*r[h,j])
        """,
        "S: delta/chunk decay=none key=j value=i rank=1",
    ),
    "Gated DeltaNet": Known(
        """
        state S: [H, I, J]
        al[h] = sigmoid(ax[h])
        S'[h,i,j] = al[h]*(S[h,i,j] - be[h]*sum[m](S[h,i,m]*k[h,m])*k[h,j]) + be[h]*v[h,i]*k[h,j]
        y[h,i] = sum[j](S'[h,i,j]*r[h,j])
        """,
        "S: delta/chunk decay=scalar key=j value=i rank=1",
    ),
    "KDA": Known(
        """
        state S: [H, J, I]
        T[h,j,i] = sigmoid(ax[h,j])*S[h,j,i]
        S'[h,j,i] = T[h,j,i] - be[h]*k[h,j]*sum[m](k[h,m]*T[h,m,i]) + be[h]*k[h,j]*v[h,i]
        y[h,i] = sum[j](S'[h,j,i]*r[h,j])
        """,
        "S: delta/chunk decay=key key=j value=i rank=1",
    ),
    "DeltaProduct, 2 steps": Known(
        """
        state S: [H, I, J]
        T[h,i,j] = S[h,i,j] - (sum[m](S[h,i,m]*k1[h,m]) - v1[h,i])*k1[h,j]
        S'[h,i,j] = T[h,i,j] - (sum[m](T[h,i,m]*k2[h,m]) - v2[h,i])*k2[h,j]
        y[h,i] = sum[j](S'[h,i,j]*r[h,j])
        """,
        "S: delta/chunk decay=none key=j value=i rank=2",
    ),
    "rank r, as a sum": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = sigmoid(wx[h,j])*S[h,i,j] + sum[r](sum[m](S[h,i,m]*a[h,r,m])*b[h,r,j] + v[h,r,i]*k[h,r,j])
        y[h,i] = sum[j](S'[h,i,j]*q[h,j])
        """,
        "S: delta/chunk decay=key key=j value=i rank=1",
    ),
    "TTT-linear": Known(
        """
        state S: [I, J]
        e[i] = sum[m](S[i,m]*k[m]) - v[i]
        S'[i,j] = S[i,j] - 2*eta*e[i]*k[j]
        y[i] = sum[j](S'[i,j]*r[j])
        """,
        "S: delta/chunk decay=none key=j value=i rank=1",
    ),
    "TTT-linear, layer norm": Known(
        """
        state S: [I, J]
        z[i] = sum[m](S[i,m]*k[m])
        e = center(z) - v
        S'[i,j] = S[i,j] - 2*eta*e[i]*k[j]
        y[i] = sum[j](S'[i,j]*r[j])
        """,
        "S: general",
    ),
    "Titans, linear, momentum": Known(
        """
        state S: [H, I, J]
        state M: [H, I, J]
        e[h,i] = sum[m](S[h,i,m]*k[h,m]) - v[h,i]
        M'[h,i,j] = sigmoid(et[h])*M[h,i,j] - th[h]*e[h,i]*k[h,j]
        S'[h,i,j] = sigmoid(al[h])*S[h,i,j] + M'[h,i,j]
        y[h,i] = sum[j](S'[h,i,j]*r[h,j])
        """,
        "S+M: delta/chunk decay=scalar key=j value=i rank=2",
    ),
    "per-row read": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = sigmoid(g[h,j])*S[h,i,j] + v[h,i]*k[h,j]
        y[h,i] = sum[j](S'[h,i,j]*r[h,i,j])
        """,
        "S: diagonal/scan decay=key key=j value=-",
    ),
    "state-dependent gate": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = sigmoid(sum[m](S[h,i,m]*r[h,m]))*S[h,i,j] + v[h,i]*k[h,j]
        y[h,i] = sum[j](S'[h,i,j]*r[h,j])
        """,
        "S: general",
    ),
    "delta, value gate": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = sigmoid(f[h,i])*sigmoid(g[h,j])*(S[h,i,j] - sum[m](S[h,i,m]*k[h,m])*k[h,j]) + v[h,i]*k[h,j]
        y[h,i] = sum[j](S'[h,i,j]*r[h,j])
        """,
        "S: delta/chunk decay=key key=j value=- rank=1",
    ),
    "quadratic": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = 0.5*S[h,i,j] - 0.01*sum[m](S[h,i,m]*k[h,m])*S[h,i,j] + v[h,i]*k[h,j]
        y[h,i] = sum[j](S'[h,i,j]*r[h,j])
        """,
        "S: general",
    ),
    "LRU, complex": Known(
        """
        state re: [C]
        state im: [C]
        re'[c] = ca[c]*re[c] - sa[c]*im[c] + x[c]
        im'[c] = sa[c]*re[c] + ca[c]*im[c]
        y[c] = re'[c]
        """,
        "re+im: diagonal/scan decay=value",
    ),
    "minGRU": Known(
        """
        state s: [C]
        z[c] = sigmoid(zx[c])
        s'[c] = (1 - z[c])*s[c] + z[c]*x[c]
        y[c] = s'[c]
        """,
        "s: diagonal/scan decay=value",
    ),
    "minLSTM": Known(
        """
        state s: [C]
        f[c] = sigmoid(fx[c])
        g[c] = sigmoid(gx[c])
        s'[c] = f[c]/(f[c] + g[c])*s[c] + g[c]/(f[c] + g[c])*x[c]
        y[c] = s'[c]
        """,
        "s: diagonal/scan decay=value",
    ),
    "LSTM": Known(
        """
        state s: [C]
        state o: [C]
        i1[c] = sigmoid(ix[c] + sum[e](ui[c,e]*o[e]))
        s'[c] = sigmoid(fx[c] + sum[e](uf[c,e]*o[e]))*s[c] + i1[c]*tanh(zx[c] + sum[e](uz[c,e]*o[e]))
        o'[c] = sigmoid(ox[c] + sum[e](uo[c,e]*o[e]))*tanh(s'[c])
        y[c] = o'[c]
        """,
        "s+o: general",
    ),
    "mLSTM, stabilised": Known(
        """
        state m: [H]
        state S: [H, I, J]
        state n: [H, J]
        lf[h] = -log(1 + exp(-fx[h]))
        m'[h] = max(lf[h] + m[h], ix[h])
        S'[h,i,j] = exp(lf[h] + m[h] - m'[h])*S[h,i,j] + exp(ix[h] - m'[h])*v[h,i]*k[h,j]
        n'[h,j] = exp(lf[h] + m[h] - m'[h])*n[h,j] + exp(ix[h] - m'[h])*k[h,j]
        y[h,i] = sum[j](S'[h,i,j]*r[h,j]) / max(abs(sum[j](n'[h,j]*r[h,j])), exp(-m'[h]))
        """,
        "m: max-plus | S: diagonal/chunk decay=scalar key=j value=i | n: diagonal/scan decay=scalar key=j value=-",
    ),
    "vanilla RNN": Known(
        """
        state s: [C]
        s'[c] = tanh(x[c] + sum[e](u[c,e]*s[e]))
        y[c] = s'[c]
        """,
        "s: general",
    ),
    "linear RNN, dense": Known(
        """
        state s: [C]
        s'[c] = x[c] + sum[e](u[c,e]*s[e])
        y[c] = s'[c]
        """,
        "s: general",
    ),
    "two-sided": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = S[h,i,j] - k[h,i]*sum[m](k[h,m]*S[h,m,j]) - sum[m](S[h,i,m]*q[h,m])*q[h,j] + v[h,i]*k[h,j]
        y[h,i] = sum[j](S'[h,i,j]*r[h,j])
        """,
        "S: general",
        square=True,
    ),
}
