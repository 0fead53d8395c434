"""Cells that nobody has published: one for each turn the derivation of the sequence form can take."""

from __future__ import annotations

from .cells import Known

MORE = {
    "several vectors ask one state": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = sigmoid(g[h,j])*S[h,i,j] + v[h,i]*k[h,j]
        y[h,r,i] = sum[j](S'[h,i,j]*q[h,r,j])
        """,
        "S: diagonal/chunk decay=key key=j value=i",
    ),
    "asked, then summed": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = sigmoid(g[h,j])*S[h,i,j] + v[h,i]*k[h,j]
        y[h,i] = sum[r](sum[j](S'[h,i,j]*q[h,r,j])*o[h,r,i])
        """,
        "S: diagonal/chunk decay=key key=j value=i",
    ),
    "before and after": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = S[h,i,j]*sigmoid(g[h,j]) - sum[m](S[h,i,m]*a[h,m])*b[h,j] + v[h,i]*k[h,j]
        y[h,i] = sum[j](S[h,i,j]*r[h,j]) + tanh(sum[m](S'[h,i,m]*z[h,m]))
        """,
        "S: delta/chunk decay=key key=j value=i rank=1",
    ),
    "read through an equation": Known(
        """
        state S: [H, I, J]
        T[h,i,j] = S[h,i,j]*sigmoid(g[h,j])
        S'[h,i,j] = T[h,i,j] + v[h,i]*k[h,j]
        y[h,i] = sum[j]((T[h,i,j] + S'[h,i,j])*r[h,j])
        """,
        "S: diagonal/chunk decay=key key=j value=i",
    ),
    "named outer product": Known(
        """
        state S: [H, I, J]
        kv[h,i,j] = v[h,i]*k[h,j] + b[h,i]*e[h,j]
        S'[h,i,j] = sigmoid(g[h,j])*S[h,i,j] + kv[h,i,j]
        y[h,i] = sum[j](S'[h,i,j]*r[h,j])
        """,
        "S: diagonal/chunk decay=key key=j value=i",
    ),
    "read whole": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = sigmoid(g[h,j])*S[h,i,j] + v[h,i]*k[h,j]
        y[h,i] = sum[j](tanh(S'[h,i,j])*r[h,j])
        """,
        "S: diagonal/scan decay=scalar",
    ),
    "read at one place": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = sigmoid(g[h,j])*S[h,i,j] + v[h,i]*k[h,j]
        y[h,i] = S'[h,i,0] + sum[j](S[h,i,j]*r[h,j])
        """,
        "S: diagonal/scan decay=scalar",
    ),
    "delta, read whole": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = S[h,i,j] - sum[m](S[h,i,m]*k[h,m])*k[h,j] + v[h,i]*k[h,j]
        y[h,i] = sum[j](tanh(S'[h,i,j])*r[h,j])
        """,
        "S: general",
    ),
    "one answer asks again": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = sigmoid(g[h,j])*S[h,i,j] + v[h,i]*k[h,j]
        z[h,i] = sum[j](S'[h,i,j]*r[h,j])
        y[h,i] = sum[j](S'[h,i,j]*q[h,j]*tanh(mean[l](z[h,l])))
        """,
        "S: diagonal/chunk decay=key key=j value=i",
    ),
    "linear attention with momentum": Known(
        """
        state M: [H, I, J]
        state S: [H, I, J]
        M'[h,i,j] = sigmoid(g[h])*M[h,i,j] + v[h,i]*k[h,j]
        S'[h,i,j] = sigmoid(a[h,j])*S[h,i,j] + M'[h,i,j]
        y[h,i] = sum[j](S'[h,i,j]*r[h,j])
        """,
        "M+S: diagonal/chunk decay=key key=j value=i",
    ),
    "momentum that looks back": Known(
        """
        state M: [H, I, J]
        state S: [H, I, J]
        M'[h,i,j] = sigmoid(g[h])*M[h,i,j] + v[h,i]*k[h,j] - 0.1*S[h,i,j]
        S'[h,i,j] = sigmoid(a[h,j])*S[h,i,j] + M'[h,i,j]
        y[h,i] = sum[j](S'[h,i,j]*r[h,j])
        """,
        "M+S: diagonal/chunk decay=key key=j value=i",
    ),
    "softened maximum, by way of an equation": Known(
        """
        state p: [C]
        z[c] = logaddexp(k[c], logaddexp(p[c] - exp(w[c]), u[c]))
        p'[c] = z[c]
        y[c] = p[c] - z[c]
        """,
        "p: max-plus",
    ),
    "delay of an answer": Known(
        """
        state S: [H, I, J]
        state s: [H, I]
        S'[h,i,j] = sigmoid(g[h,j])*S[h,i,j] + v[h,i]*k[h,j]
        s'[h,i] = sum[j](S'[h,i,j]*r[h,j])
        y[h,i] = s[h,i] - s'[h,i]
        """,
        "S: diagonal/chunk decay=key key=j value=i | s: delay",
    ),
    "scan over answers": Known(
        """
        state S: [H, I, J]
        state n: [H, I]
        S'[h,i,j] = sigmoid(g[h,j])*S[h,i,j] + v[h,i]*k[h,j]
        n'[h,i] = sigmoid(f[h])*n[h,i] + sum[j](S[h,i,j]*r[h,j])
        y[h,i] = n'[h,i]
        """,
        "S: diagonal/chunk decay=key key=j value=i | n: diagonal/scan decay=scalar",
    ),
    "contracted twice": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = sigmoid(g[h,j])*S[h,i,j] + v[h,i]*k[h,j]
        y[h] = sum[i,j](S'[h,i,j]*u[h,i]*r[h,j]) + mean[i](sum[j](S[h,i,j]*z[h,j])^2)
        """,
        "S: diagonal/chunk decay=key key=j value=i",
    ),
    "mean along the key, and an index that one term lacks": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = sigmoid(g[h,j])*S[h,i,j] + v[h,i]*k[h,j]
        y[h,i] = mean[j](S'[h,i,j]*r[h,j] + u[h,i]) + sum[j](a[h,i] - S[h,i,j]*b[h,j])
        """,
        "S: diagonal/chunk decay=key key=j value=i",
    ),
    "a gate that is not the state's": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = sigmoid(g[h,j])*S[h,i,j] + v[h,i]/a[h]*k[h,j] if a[h] > 0 else S[h,i,j]
        y[h,i] = sum[j](S'[h,i,j]*r[h,j])
        """,
        "S: diagonal/chunk decay=key key=j value=i",
    ),
    "a factor with a sum, twice": Known(
        """
        state S: [H, I, J]
        a[h,i,j] = S[h,i,j]*sigmoid(mean[m](tanh(k[h,m])))
        S'[h,i,j] = a[h,i,j]*sigmoid(mean[m](tanh(k[h,m]))) + v[h,i]*k[h,j]
        y[h,i] = sum[j](S'[h,i,j]*r[h,j])
        """,
        "S: diagonal/chunk decay=scalar key=j value=i",
    ),
    "a gate that is the state's": Known(
        """
        state s: [C]
        s'[c] = s[c]*w[c] if s[c] > 0 else x[c]
        y[c] = s'[c]
        """,
        "s: general",
    ),
    "asked from inside a later recurrence": Known(
        """
        state S: [H, I, J]
        state t: [H, I]
        S'[h,i,j] = sigmoid(g[h,j])*S[h,i,j] + v[h,i]*k[h,j]
        q[h,j] = r[h,j]*mean[i](t[h,i])
        t'[h,i] = tanh(sum[j](S'[h,i,j]*q[h,j]) + x[h,i])
        y[h,i] = t'[h,i]
        """,
        "S: diagonal/scan decay=scalar | t: general",
    ),
    "asked after a later recurrence": Known(
        """
        state S: [H, I, J]
        state t: [H, I]
        S'[h,i,j] = sigmoid(g[h,j])*S[h,i,j] + v[h,i]*k[h,j]
        t'[h,i] = tanh(sum[j](S'[h,i,j]*r[h,j]) + t[h,i])
        y[h,i] = sum[j](S'[h,i,j]*r[h,j]*mean[i1](t[h,i1]))
        """,
        "S: diagonal/chunk decay=key key=j value=i | t: general",
    ),
    "asked with another chunk's answer": Known(
        """
        state S: [H, I, J]
        state T: [H, J, I]
        S'[h,i,j] = sigmoid(g[h,j])*S[h,i,j] + v[h,i]*k[h,j]
        z[h,i] = sum[j](S'[h,i,j]*r[h,j])
        T'[h,j,i] = sigmoid(f[h,i])*T[h,j,i] + u[h,j]*z[h,i]
        q[h,j] = sum[i](T'[h,j,i]*z[h,i])
        y[h,i] = sum[j](S[h,i,j]*q[h,j])
        """,
        "S: diagonal/chunk decay=key key=j value=i | T: diagonal/chunk decay=key key=i value=j",
    ),
    "two chunks meet in one sum": Known(
        """
        state S: [H, I, J]
        state T: [H, I, J]
        S'[h,i,j] = sigmoid(g[h,j])*S[h,i,j] + v[h,i]*k[h,j]
        T'[h,i,j] = sigmoid(f[h])*T[h,i,j] + u[h,i]*k[h,j]
        y[h,i] = sum[j](S'[h,i,j]*T'[h,i,j])
        """,
        "S: diagonal/scan decay=key key=j value=- | T: diagonal/scan decay=scalar key=j value=-",
    ),
    "two states change places": Known(
        """
        state a: [C]
        state b: [C]
        a'[c] = b[c]
        b'[c] = a[c] + x[c]
        y[c] = a'[c]
        """,
        "a+b: diagonal/scan decay=none",
    ),
    "one number": Known(
        """
        state n: []
        n' = n + 1
        y[c] = x[c]/n'
        """,
        "n: diagonal/scan decay=none",
    ),
    "one low-rank term, written as three": Known(
        """
        state S: [H, I, J]
        a[h,i] = sum[m](S[h,i,m]*k[h,m])
        S'[h,i,j] = S[h,i,j] - a[h,i]*b[h,j] - a[h,i]*f[h,j] - sum[m](S[h,i,m]*g[h,m])*(b[h,j] + f[h,j])
        y[h,i] = sum[j](S'[h,i,j]*r[h,j])
        """,
        "S: delta/chunk decay=none key=j value=i rank=1",
    ),
    "rows forget at their own pace": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = sigmoid(f[h,i])*S[h,i,j] + v[h,i]*k[h,j]
        y[h,i] = sum[j](S'[h,i,j]*r[h,j])
        """,
        "S: diagonal/chunk decay=value key=j value=i",
    ),
    "divided by itself": Known(
        """
        state s: [C]
        s'[c] = x[c] / (2 + abs(s[c]))
        y[c] = s[c]
        """,
        "s: general",
    ),
    "transposed": Known(
        """
        state S: [J, J]
        S'[i,j] = S[j,i] + v[i]*k[j]
        y[i] = sum[j](S'[i,j]*r[j])
        """,
        "S: general",
        square=True,
    ),
    "two tokens back": Known(
        """
        state S: [H, I, J]
        state P: [H, I, J]
        S'[h,i,j] = sigmoid(g[h,j])*S[h,i,j] - 0.3*P[h,i,j] + v[h,i]*k[h,j]
        P'[h,i,j] = S[h,i,j]
        y[h,i] = sum[j](S'[h,i,j]*r[h,j])
        """,
        "S+P: diagonal/chunk decay=key key=j value=i",
    ),
    "the state before, kept": Known(
        """
        state S: [H, I, J]
        state P: [H, I, J]
        S'[h,i,j] = S[h,i,j] - sum[m](S[h,i,m]*a[h,m])*b[h,j] + v[h,i]*k[h,j]
        P'[h,i,j] = S[h,i,j]
        y[h,i] = sum[j]((S'[h,i,j] - P[h,i,j])*r[h,j])
        """,
        "S+P: delta/chunk decay=none key=j value=i rank=1",
    ),
    "four axes, the key among them": Known(
        """
        state S: [C, J, H, I]
        S'[c,j,h,i] = sigmoid(g[h,j])*S[c,j,h,i] - sum[m](S[c,m,h,i]*a[h,m])*b[h,j] + v[c,i]*k[h,j]
        y[i,h] = sum[j,c](S'[c,j,h,i]*r[h,j]*o[c])
        """,
        "S: delta/chunk decay=key key=j value=c,i rank=1",
    ),
    "a vector, reflected": Known(
        """
        state s: [C]
        s'[c] = s[c] - 2*sum[e](s[e]*k[e])*k[c] + x[c]
        y = sum[c](s'[c]*r[c])
        """,
        "s: delta/chunk decay=none key=c value=- rank=1",
    ),
    "heads that share a state": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = sigmoid(g[h,j])*S[h,i,j] + v[h,i]*k[h,j]
        y[c,i] = sum[j](S'[c//2,i,j]*q[c,j])
        """,
        "S: diagonal/chunk decay=key key=j value=i",
    ),
    "a constant place of a query": Known(
        """
        state S: [H, I, J]
        S'[h,i,j] = sigmoid(g[h,j])*S[h,i,j] + v[h,i]*k[h,j]
        y[h,i] = sum[j](S'[1,i,j]*r[h,j]) + sum[j](S[h,2,j]*r[h,j])*v[h,i]
        """,
        "S: diagonal/chunk decay=key key=j value=i",
    ),
    "moving average": Known(
        """
        state s: [C]
        s'[c] = s[c] + (x[c] - s[c])*mu[c]
        y[c] = s'[c]
        """,
        "s: diagonal/scan decay=value",
    ),
    "begins elsewhere": Known(
        """
        param S0: [H, I, J] ~ normal(0.5)
        param p0: [C] ~ normal(0.5)
        state S: [H, I, J] = S0
        state p: [C] = p0
        state n: [C] = 0.5
        S'[h,i,j] = S[h,i,j]*sigmoid(g[h,j]) - sum[m](S[h,i,m]*a[h,m])*b[h,j] + v[h,i]*k[h,j]
        p'[c] = max(p[c] - exp(w[c]), f[c])
        n'[c] = exp(p[c] - exp(w[c]) - p'[c])*n[c] + x[c]
        y[h,i] = sum[j](S'[h,i,j]*r[h,j]) + sum[c](n'[c] + p[c])
        """,
        "S: delta/chunk decay=key key=j value=i rank=1 | p: max-plus | n: diagonal/scan decay=value",
    ),
    "a vector, written by heads": Known(
        """
        state s: [H*I]
        s'[h,i] = sigmoid(g[h])*softmax[i](f[h,i])*s[h,i] + x[h,i] + h
        y[h,i] = s'[h,i]
        """,
        "s: diagonal/scan decay=value",
    ),
    "a vector, its maximum by heads": Known(
        """
        state p: [H*I]
        state n: [H, I]
        q[h,i] = p[h,i] - exp(w[h])
        p'[h,i] = max(q[h,i], k[h,i])
        n'[h,i] = exp(q[h,i] - p'[h,i])*n[h,i] + x[h,i]
        y[h,i] = n'[h,i]/(1 + abs(p[h,i]))
        """,
        "p: max-plus | n: diagonal/scan decay=value",
    ),
    "a matrix whose rows are split when it is read": Known(
        """
        state S: [H*I, J]
        S'[h,i,j] = sigmoid(g[h])*S[h,i,j] + v[h,i]*softmax[j](k[h,j])
        y[h,i] = sum[j](S'[h,i,j]*r[h,j])
        """,
        "S: diagonal/scan decay=scalar",
    ),
    "read at another place along a softmax": Known(
        """
        state s: [H, I]
        z[h,i] = s[h,i]*softmax[i](f[h,i]*g[i])
        s'[h,i] = z[h,2 - i] + x[h,i]
        y[h,i] = s'[h,i]
        """,
        "s: general",
    ),
}
