/* aside.pml - the protocol of scripts.go, one key.
 *
 * K    value key: 0 absent, else the database version it was loaded from
 * Lk   lease key, one string: 0 absent, 1 load <Lt>, 2 failed <Lf>, 3 none
 * Lf   the token of a lease that was released without a value: in `failed`, and in the `load` after it
 * Ln   what `none` says, which the string does not hold: the version of the database that had no such row
 * Lw   the key of the writers' blocks: the set of their tokens, 0 when it is absent
 * db   the database register: a version that each write increments (commit = one step)
 *
 * Every command is: (send) -> executed atomically in Redis -> reply seen in a LATER step.
 * A "lost" command (budget NF) is reported as failed to its client at once and put in a zombie
 * slot: it executes at any later time or never (covers dropped, executed-but-reply-lost, late).
 *
 * Checked at every read's return and at every change of K:
 *   P1   value >= lo      (lo: highest version whose write was reported APPLIED, or, per process, queued)
 *   LIN  value >= mr      (mr: highest version any earlier read returned; only with Updates)
 *   P2   a writer that crashed after its commit raises lo as if it had completed (strict)
 * and, in configurations of their own:
 *   P3CHK  no second load begins under a lease while the first one's lease, or its value, is there
 *   LIVE   every reader ends, under weak fairness: a process that can go on does
 *
 * Switches: each B_... restores a reading of the design as worded (a Bug to exhibit);
 * without any B_ switch the model is the repaired protocol.
 *   B_ONETOKEN  the blocks are one token, a second seize overwrites the first
 *   B_INVALL    Invalidate / queue delivery lifts blocks, too
 *   B_FINKEEP   finalise lifts only its own write: block and leaves load: leases alone
 *   B_JOIN      accept rule as worded: "fill was confirmed" (no "arrived before it was sent")
 *   B_JOINLOAD  a load's result is handed to all who wait when it ends
 *   B_POLLHIT   a polled hit is handed to all who wait on the flight
 *   B_RETRY     a client library re-sends SET L load:t NX with the same t
 *   B_QEARLY    seize failed: queue at once, no finalise after the commit
 *   B_ACK       queue entry removed by key when delivery is acknowledged (no sequence number)
 *   B_NODISTRUSTFLIGHT  detached/distrusted flights still fill
 *   B_NODETACH  an in-process write does not detach the flight
 *   B_KEEPMARK  an invalidation leaves the not-found marker
 *   B_MARKANY   a marker is stored without the token check
 *   B_CLEARLATE the Clear of a full queue removes values before leases
 *   B_OVERTRUST a process whose queue overflowed trusts what Redis has
 *   B_OVERACK   the end of a Clear forgets an overflow that came while it ran
 *   NORECHECK   lease request does not look at K again (P3 only)
 *   KEPT        a lease lapses only when its holder is dead or done: holders extend theirs
 *   NOLTTL, NOKTTL  leases, values never lapse
 *   BLOCKEXP    a live writer's block may expire / be evicted at any time
 *   FOREIGN=1   Python: db write, DEL K L      FOREIGN=2: db write, DEL K alone
 *   FSETEX      Python: GET miss, db read, SETEX K
 *   REFUSE      an Update whose seize fails does not write
 *   CRASH       writers and loaders may stop at any step
 *   NOTFOUND    odd versions of the row are absent, the first one among them: a fill stores the marker
 *   QBOUND      the queue has no room: an invalidation that fails is an overflow, which a Clear ends
 *   LOADFAILS   a load may end without a value, and gives its lease back
 *   W0,W1       kind of writer: 1 Update, 2 write+Invalidate, 0 none; WP0,WP1 its process
 *
 * RUN   ./check aside NAME -DNF=1 -DNR=2 ...   (spin -a, gcc -O2 -DSAFETY -DCOLLAPSE, pan)
 * BOUNDS one key; NR readers (one read each; 0 and 1 in process 0 unless RP1=1, 2 in process 1);
 *   at most 2 writers, NF lost/late commands (2 slots); K TTL and lease expiry at any time, any number of times.
 * NOT MODELLED: Cluster/failover, breaker, per-token deadlines (Lw lapses only when no live writer is
 *   in it, unless BLOCKEXP). Claims, which generations use, have a model of their own: claim.pml.
 */
#ifndef NF
#define NF 1
#endif
#ifndef W0
#define W0 1
#endif
#ifndef W1
#define W1 1
#endif
#ifndef WP0
#define WP0 0
#endif
#ifndef WP1
#define WP1 1
#endif
#ifndef NR
#define NR 3
#endif
#ifndef FOREIGN
#define FOREIGN 0
#endif
#ifndef RP1
#define RP1 0
#endif
#ifndef NZ
#define NZ 2
#endif
#define BIT(x) (1<<(x))

byte K, Lk, Lt, Lw, Lf, Ln, db = 1;
byte lo = 1, mr = 1, lop[2] = 1;
byte faults = NF;
byte cur[2];                 /* flight a new caller joins: id+1 */
byte started, floaded, fsent, fdone, fconf, fwake, fdead, fdet; /* bitmasks by flight id (= leader's reader id) */
byte fval[4];
bool q[2]; byte qs[2], qv[2], hold[2];   /* queued invalidation, its sequence, its version; held open */
bool ov[2]; byte os[2], ovv[2];         /* the queue overflowed, the sequence of the last time, its version */
byte live, granted;          /* writers between seize and finalise; leases granted on an unbroken cold spell */
byte zop[NZ], za[NZ], zv[NZ];
bool rdone[4];
byte cold;                   /* loads begun under a lease since the last invalidation/expiry (P3) */

#ifdef B_OVERTRUST
#define DISTRUST(p) (q[p] || hold[p] > 0)
#else
#define DISTRUST(p) (q[p] || hold[p] > 0 || ov[p])
#endif
#ifdef NOTFOUND
#define ABSENT(v) ((v) % 2 == 1)
#else
#define ABSENT(v) false
#endif
#ifdef QBOUND
#define QUEUE(p, m) ov[p] = true; os[p]++; ovv[p] = MAX(ovv[p], m); lop[p] = MAX(lop[p], m)
#else
#define QUEUE(p, m) q[p] = true; qs[p]++; qv[p] = MAX(qv[p], m); lop[p] = MAX(lop[p], m)
#endif
/* the end of whatever the lease key says */
#define NOLEASE Lk = 0; Lt = 0; Lf = 0; Ln = 0
#ifdef B_KEEPMARK
#define INVALIDATED if :: Lk != 3 -> NOLEASE :: else fi
#else
#define INVALIDATED NOLEASE
#endif
#define MAX(a,b) ((a)>(b) -> (a) : (b))

inline CHK() {
  assert(K == 0 || K >= lo);
#ifdef LIN
  assert(K == 0 || K >= mr);
#endif
  assert(K == 0 || DISTRUST(0) || K >= lop[0]);
  assert(K == 0 || DISTRUST(1) || K >= lop[1]);
  /* what the marker says is a value, too */
  assert(Ln == 0 || Ln >= lo);
#ifdef LIN
  assert(Ln == 0 || Ln >= mr);
#endif
  assert(Ln == 0 || DISTRUST(0) || Ln >= lop[0]);
  assert(Ln == 0 || DISTRUST(1) || Ln >= lop[1]);
}

/* waited: the token of the lease that the asker waited for, or 0. res: 1 granted, 2 loading, 3 writing or
 * unleased (load, store nothing), 4 present, 5 absent. */
inline X_LEASE(t, waited, res) {
  if
#ifndef NORECHECK
  :: K != 0 -> res = 4
  :: K == 0 && Lk == 3 -> res = 5
  :: K == 0 && Lk != 3 && Lw != 0 -> res = 3
  :: K == 0 && Lw == 0 && (Lk == 0 || Lk == 2) -> Lk = 1; Lt = t; res = 1 /* Lf stays, in the string */
  :: K == 0 && Lw == 0 && Lk == 1 -> if :: waited != 0 && Lf == waited -> res = 3 :: else -> res = 2 fi
#else
  :: Lw != 0 -> res = 3
  :: Lw == 0 && Lk != 1 -> NOLEASE; Lk = 1; Lt = t; res = 1
  :: Lw == 0 && Lk == 1 -> res = 2
#endif
  fi
}
#define HELD(t) (Lk == 1 && Lt == t)
inline X_FILL(t, v, res) {
  if
  :: HELD(t) && !ABSENT(v) -> K = v; NOLEASE; res = 1; CHK()
  :: HELD(t) && ABSENT(v) -> NOLEASE; Lk = 3; Ln = v; res = 1; CHK()
#ifdef B_MARKANY
  :: !HELD(t) && ABSENT(v) -> NOLEASE; Lk = 3; Ln = v; res = 1; CHK()
#define NOFILL !HELD(t) && !ABSENT(v)
#else
#define NOFILL else
#endif
  :: NOFILL -> res = 0
  fi
}
#ifdef LOADFAILS
#define MARK(t) Lk = 2; Lf = t
#else
#define MARK(t) skip
#endif
inline X_RELEASE(t) { if :: HELD(t) -> NOLEASE; MARK(t); cold = 0 :: else fi }
inline X_INV() {
  K = 0; cold = 0; INVALIDATED;
#ifdef B_INVALL
  Lw = 0
#endif
}
inline X_SEIZE(w) {
  K = 0; cold = 0; INVALIDATED;
#ifdef B_ONETOKEN
  Lw = BIT(w)
#else
  Lw = Lw | BIT(w)
#endif
}
inline X_FINAL(w) {
  K = 0; cold = 0;
#ifdef B_FINKEEP
  if :: Lk != 1 -> INVALIDATED :: else fi;
#else
  INVALIDATED;
#endif
#ifdef B_ONETOKEN
  if :: Lw == BIT(w) -> Lw = 0 :: else fi
#else
  Lw = Lw & (7 - BIT(w))
#endif
}
/* the two steps of a Clear */
inline X_CLEARLEASES() { INVALIDATED; cold = 0 }
inline X_CLEARVALUES() { K = 0; cold = 0 }
inline STASH(op, a, v) {
  faults > 0; faults--;
  if
  :: zop[0] == 0 -> zop[0] = op; za[0] = a; zv[0] = v
  :: zop[0] != 0 && zop[1] == 0 -> zop[1] = op; za[1] = a; zv[1] = v
  :: else -> skip   /* dropped */
  fi
}
#define OPL 1
#define OPF 2
#define OPI 3
#define OPS 4
#define OPN 5
#define OPR 6

#ifdef B_JOIN
#define CONF (fconf & BIT(f))
#else
#define CONF ((fconf & BIT(f)) && !(mF & BIT(f)))
#endif
#define ACCEPT ((!(mS & BIT(f)) && !(fwake & BIT(f)) && (started & BIT(f))) || CONF)

proctype Reader(byte r; byte p) {
  byte low, mS, mF, v, f, res, seen, waited; bool deg;
  d_step { /* arrives */
    low = MAX(lo, lop[p]);
#ifdef LIN
    low = MAX(low, mr);
#endif
    mS = started; mF = fsent
  }
again:
  deg = false;
  if
  :: atomic { DISTRUST(p) -> deg = true }
  :: !DISTRUST(p) ->
     if
     :: d_step { K != 0 -> v = K } ; goto ret
     :: K == 0
     :: skip   /* the GET is left out, as a miss is expected: the lease request finds the value */
     :: atomic { faults > 0 -> faults--; deg = true }
     fi
  fi;
  atomic {
    if
    :: cur[p] != 0 -> f = cur[p] - 1; goto join
    :: else -> cur[p] = r + 1; f = r
    fi
  }
ask:
  res = 0;
  if
  :: deg
  :: !deg -> atomic { if :: DISTRUST(p) -> deg = true :: else -> X_LEASE(r+1, waited, res); if :: res == 2 -> seen = Lt; waited = Lt :: res == 4 -> v = K :: res == 5 -> v = Ln; res = 4 :: else fi fi }
#ifndef LIN_NOREADFAULT
#ifdef B_RETRY
  :: atomic { !deg && faults > 0 -> STASH(OPL, r+1, 0) }; atomic { X_LEASE(r+1, waited, res); if :: res == 2 -> seen = Lt; waited = Lt :: res == 4 -> v = K :: res == 5 -> v = Ln; res = 4 :: else fi }
#else
  :: atomic { !deg && faults > 0 -> STASH(OPL, NR+1+r, 0); deg = true }
#endif
#endif
  fi;
  if
  :: res == 4 -> goto polled
  :: res == 2 ->
waiting:
     if
     :: d_step { K != 0 -> v = K } ; goto polled
     :: d_step { K == 0 && Lk == 3 -> v = Ln } ; goto polled
     :: !HELD(seen) && K == 0 && Lk != 3 -> goto ask
     fi
  :: else
  fi;
  /* load: start, read, (minutes), end */
  started = started | BIT(r);
  d_step { v = db; if :: res == 1 -> cold++ :: else fi }
#ifdef LOADFAILS
  /* the load ends without a value: its waiters get the error */
  if
  :: skip
  :: atomic { if :: res == 1 -> X_RELEASE(r+1) :: else fi; fdead = fdead | BIT(r); if :: cur[p] == r + 1 -> cur[p] = 0 :: else fi; goto done }
  fi;
#endif
#ifdef P3CHK
  assert(cold <= 1);
#endif
#ifdef CRASH
  if
  :: skip
  :: atomic { fdead = fdead | BIT(r); if :: cur[p] == r + 1 -> cur[p] = 0 :: else fi; goto done }
  fi;
#endif
  /* the load has ended: who may take its result does not wait for the fill */
  d_step {
    assert(v >= low); mr = MAX(mr, v);
#ifdef LIN
    CHK();
#endif
    fval[r] = v; floaded = floaded | BIT(r)
  }
  if
#ifndef B_NODISTRUSTFLIGHT
  :: res == 1 && !DISTRUST(p) && !(fdet & BIT(r)) ->
#else
  :: res == 1 ->
#endif
     fsent = fsent | BIT(r);
     if
     :: atomic { X_FILL(r+1, v, res) }
     :: atomic { STASH(OPF, r+1, v); res = 0 }
     fi
  :: else ->   /* stores nothing: give the lease back if it is still held (or the next loader waits it out) */
     if
     :: atomic { if :: res == 1 -> X_RELEASE(r+1) :: else fi; res = 0 }
     :: atomic { res == 1 && faults > 0 -> STASH(OPR, r+1, 0); res = 0 }
     fi
  fi;
  /* the reply is seen */
  atomic {
    if :: res == 1 -> fconf = fconf | BIT(r) :: else fi;
    fdone = fdone | BIT(r); if :: cur[p] == r + 1 -> cur[p] = 0 :: else fi
  }
  goto ret;
polled:
  atomic {
    fval[r] = v;
#ifdef B_POLLHIT
    fconf = fconf | BIT(r);
#else
    fwake = fwake | BIT(r);
#endif
    fdone = fdone | BIT(r); if :: cur[p] == r + 1 -> cur[p] = 0 :: else fi
  }
  goto ret;
join:
  if
#ifdef B_JOINLOAD
  :: floaded & BIT(f) -> v = fval[f]; goto ret
#else
  :: (floaded & BIT(f)) && !(mS & BIT(f)) -> v = fval[f]; goto ret
#endif
  :: fdone & BIT(f)
  :: (fdead & BIT(f)) && !(fdone & BIT(f)) -> goto done
  fi;
  if
  :: ACCEPT -> v = fval[f]
  :: else -> goto again
  fi;
ret:
  skip;
  d_step { assert(v >= low); mr = MAX(mr, v);
#ifdef LIN
  CHK()
#endif
  }
done:
  rdone[r] = true
}

proctype Updater(byte w; byte p) {
  byte my; bool sok;
  atomic { if :: cur[p] != 0 -> fdet = fdet | BIT(cur[p]-1) :: else fi;
#ifndef B_NODETACH
  cur[p] = 0
#endif
  }
  if
  :: atomic { X_SEIZE(w); live = live | BIT(w) } sok = true
#ifndef NOSEIZEFAULT
#ifdef REFUSE
  :: atomic { STASH(OPS, w, 0); goto done }
#else
#ifdef B_QEARLY
  :: atomic { STASH(OPS, w, 0); q[p] = true; qs[p]++ }
#else
  :: atomic { STASH(OPS, w, 0); hold[p]++ }
#endif
#endif
#endif
  fi;
#ifdef CRASH
  if :: skip :: atomic { live = live & (7 - BIT(w)); if :: !sok && hold[p] > 0 -> hold[p]-- :: else fi; goto done } fi;
#endif
  d_step { db++; my = db }
#ifdef CRASH
  if :: skip
  :: atomic { live = live & (7 - BIT(w));
       if :: sok -> lo = MAX(lo, my); CHK() /* P2, strict */
       :: else -> if :: hold[p] > 0 -> hold[p]-- :: else fi   /* no block was set: nothing promised */
       fi; goto done }
  fi;
#endif
  atomic { if :: cur[p] != 0 -> fdet = fdet | BIT(cur[p]-1) :: else fi;
#ifndef B_NODETACH
  cur[p] = 0
#endif
  }
#ifdef B_QEARLY
  if :: !sok -> atomic { if :: q[p] -> qv[p] = MAX(qv[p], my); lop[p] = MAX(lop[p], my) :: else -> lo = MAX(lo, my) fi; CHK(); goto done } :: else fi;
#endif
  if
  :: atomic { X_FINAL(w); live = live & (7 - BIT(w)) };
     d_step { if :: !sok && hold[p] > 0 -> hold[p]-- :: else fi; lo = MAX(lo, my); CHK() }  /* reply seen: applied */
  :: atomic { STASH(OPN, w, 0); live = live & (7 - BIT(w));
       if :: !sok && hold[p] > 0 -> hold[p]-- :: else fi;
#ifdef SEIZED_IS_APPLIED
       if :: sok -> lo = MAX(lo, my)   /* claim: a confirmed, unexpired block makes the Update applied */
       :: else -> QUEUE(p, my)
       fi;
#else
       QUEUE(p, my);
#endif
       CHK() }
  fi;
done:
  skip
}

proctype Invalidator(byte w; byte p) {
  byte my;
  d_step { db++; my = db }
  atomic { if :: cur[p] != 0 -> fdet = fdet | BIT(cur[p]-1) :: else fi;
#ifndef B_NODETACH
  cur[p] = 0
#endif
  }
  if
  :: atomic { X_INV() }; d_step { lo = MAX(lo, my); CHK() }
  :: atomic { STASH(OPI, 0, 0); QUEUE(p, my); CHK() }
  fi
}

proctype Foreign() {
  byte my;
  d_step { db++; my = db }
#if FOREIGN == 1
  d_step { K = 0; NOLEASE; cold = 0 }
#else
  d_step { K = 0; cold = 0 }
#endif
  d_step { lo = MAX(lo, my); CHK() }
}
proctype ForeignSetex() {
  byte v;
  K == 0; v = db;
  d_step { K = v; CHK() }
}

proctype Deliver(byte p) {
  byte s, m;
end: do
  :: q[p] -> d_step { s = qs[p]; m = qv[p] }
     if
     :: atomic { X_INV() };
#ifdef B_ACK
        d_step { q[p] = false; lo = MAX(lo, m); CHK() }
#else
        d_step { lo = MAX(lo, m); if :: qs[p] == s -> q[p] = false :: else fi; CHK() }
#endif
     :: atomic { STASH(OPI, 0, 0) }
     fi
#ifdef QBOUND
  :: ov[p] -> d_step { s = os[p]; m = ovv[p] }
#ifdef B_CLEARLATE
     if :: atomic { X_CLEARVALUES() } :: atomic { faults > 0 -> faults--; goto end } fi;
     if :: atomic { X_CLEARLEASES() } :: atomic { faults > 0 -> faults--; goto end } fi;
#else
     if :: atomic { X_CLEARLEASES() } :: atomic { faults > 0 -> faults--; goto end } fi;
     if :: atomic { X_CLEARVALUES() } :: atomic { faults > 0 -> faults--; goto end } fi;
#endif
     atomic { if :: cur[p] != 0 -> fdet = fdet | BIT(cur[p]-1) :: else fi; cur[p] = 0 };
#ifdef B_OVERACK
     d_step { ov[p] = false; lo = MAX(lo, m); CHK() }
#else
     d_step { lo = MAX(lo, m); if :: os[p] == s -> ov[p] = false :: else fi; CHK() }
#endif
#endif
  od
}

proctype Env() {
  byte res;
end: do
#ifndef NOKTTL
  :: d_step { K != 0 -> K = 0; cold = 0 }
#endif
#ifdef KEPT
  :: d_step { Lk == 1 && (Lt > NR || ((fdead | fdone) & BIT(Lt-1))) -> NOLEASE; cold = 0 }
#else
#ifndef NOLTTL
  :: d_step { Lk == 1 -> NOLEASE; cold = 0 }
#endif
#endif
#ifdef LOADFAILS
  :: d_step { Lk == 2 -> NOLEASE }
#endif
#ifdef NOTFOUND
  :: d_step { Lk == 3 -> NOLEASE; cold = 0 }
#endif
#ifdef BLOCKEXP
  :: d_step { Lw != 0 -> Lw = 0 }
#else
  :: d_step { Lw != 0 && (Lw & live) == 0 -> Lw = 0 }
#endif
  :: atomic { zop[0] != 0 ->
       if
       :: zop[0] == OPL -> X_LEASE(za[0], 0, res)
       :: zop[0] == OPF -> X_FILL(za[0], zv[0], res)
       :: zop[0] == OPI -> X_INV()
       :: zop[0] == OPS -> X_SEIZE(za[0])
       :: zop[0] == OPN -> X_FINAL(za[0])
       :: zop[0] == OPR -> X_RELEASE(za[0])
       fi; zop[0] = zop[1]; za[0] = za[1]; zv[0] = zv[1]; zop[1] = 0; za[1] = 0; zv[1] = 0; res = 0 }
  :: atomic { zop[1] != 0 ->
       if
       :: zop[1] == OPL -> X_LEASE(za[1], 0, res)
       :: zop[1] == OPF -> X_FILL(za[1], zv[1], res)
       :: zop[1] == OPI -> X_INV()
       :: zop[1] == OPS -> X_SEIZE(za[1])
       :: zop[1] == OPN -> X_FINAL(za[1])
       :: zop[1] == OPR -> X_RELEASE(za[1])
       fi; zop[1] = 0; za[1] = 0; zv[1] = 0; res = 0 }
  od
}

init {
  atomic {
#ifdef K1
    K = 1;       /* warm start */
#endif
    run Reader(0, 0);
#if NR > 1
    run Reader(1, RP1);
#endif
#if NR > 2
    run Reader(2, 1);
#endif
#if W0 == 1
    run Updater(0, WP0);
#elif W0 == 2
    run Invalidator(0, WP0);
#endif
#if W1 == 1
    run Updater(1, WP1);
#elif W1 == 2
    run Invalidator(1, WP1);
#endif
#if FOREIGN > 0
    run Foreign();
#endif
#ifdef FSETEX
    run ForeignSetex();
#endif
    run Deliver(0); run Deliver(1); run Env()
  }
}
#ifdef LIVE
/* every reader that started ends (a crashed leader's process counts as ended) */
ltl prog { <> (rdone[0] && rdone[1]) }
#endif
