/* aside.pml - the protocol of scripts.go, one key.
 *
 * K    value key: 0 absent, else the database version it was loaded from
 * Lk   lease key, one string: 0 absent, 1 load <Lt>, 2 failed <Lf>, 3 none, 4 fresh
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
 * and of REFRESH:
 *   B_ANYVALUE  a refresh's fill compares its token alone, and stores over any value
 *   B_ANYREMOVED  a refresh's fill of not-found compares its token alone, and removes any value
 *   B_LEAVEVALUE  a refresh's fill of not-found leaves the value
 *   B_ANYTOKEN  a refresh's fill does not compare its token
 *   B_BLOCKED   a refresh is granted while a block stands
 *   B_NOCOOL    a refresh is granted while L says that one failed
 *   B_FRESHBLOCKS  `fresh` counts as held where K is gone
 *   B_MARKSTALE an invalidation drops the lease, and leaves the value, over-age
 *   B_WAITANY   a reader who waits for a refresh takes its result, whenever the load began
 *   (An invalidation that leaves `fresh` behind breaks nothing: without K it says nothing.)
 * and the configurations:
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
 *   REFRESH     a keyspace with RefreshAfter. Lk = 4: fresh, which lapses at any time. A reader who
 *               finds K without it has its answer, and one flight in its process asks for a refresh.
 *   RWAIT       with RefreshWait: or waits for that flight, and may return the old value at any time
 *   GONE        a refresh whose value went before its end (DEL K alone) stores nothing, and holds nobody up.
 *               Without: it stores where there is no value, for whatever reason.
 *   STORETHROUGH=1  Python: db write, SETEX K with the new value    =2: and that is a promise, for a key that
 *               is always there (NOKTTL, K1)
 *   FOREIGN=3   a db write that the cache is not told of
 *   STEADY      a value that was stored is a promise: no older one comes after it
 *   NOFTTL      `fresh` does not lapse
 *   FSETEX      with REFRESH: nothing is promised of the value that it stores. It leaves L, or is a Set of
 *               ours, which drops L or says `fresh`.
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
#ifndef STORETHROUGH
#define STORETHROUGH 0
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
#ifdef REFRESH
byte Ls;     /* which K the lease was granted at: 0 none, 1 the one that is there, 2 one that has gone or was replaced,
              * 3 (GONE) one whose end is over. It stands for the end that the lease notes. */
#define REPLACED if :: Ls == 1 -> Ls = 2 :: else fi;
#else
#define REPLACED
#endif
#ifdef GONE
#define LAPSED if :: Ls == 1 -> Ls = 3 :: else fi;
#else
#define LAPSED REPLACED
#endif
#if defined(REFRESH) && defined(FSETEX)
bool kx;     /* K is what another program's SETEX left, of which nothing is promised */
#define NOTOURS K == 0 || kx
#define OURS kx = false;
#define TAKE v = K; x = kx
#else
#define NOTOURS K == 0
#define OURS
#define TAKE v = K
#endif

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
#ifdef REFRESH
#define NOLEASE Lk = 0; Lt = 0; Lf = 0; Ln = 0; Ls = 0
#else
#define NOLEASE Lk = 0; Lt = 0; Lf = 0; Ln = 0
#endif
#ifdef B_KEEPMARK
#define INVALIDATED if :: Lk != 3 -> NOLEASE :: else fi
#else
#define INVALIDATED NOLEASE
#endif
#ifdef B_MARKSTALE
#define DELETED
#else
#define DELETED K = 0; OURS REPLACED
#endif
#define MAX(a,b) ((a)>(b) -> (a) : (b))

inline CHK() {
  assert(NOTOURS || K >= lo);
#ifdef LIN
  assert(NOTOURS || K >= mr);
#endif
  assert(NOTOURS || DISTRUST(0) || K >= lop[0]);
  assert(NOTOURS || DISTRUST(1) || K >= lop[1]);
  /* what the marker says is a value, too */
  assert(Ln == 0 || Ln >= lo);
#ifdef LIN
  assert(Ln == 0 || Ln >= mr);
#endif
  assert(Ln == 0 || DISTRUST(0) || Ln >= lop[0]);
  assert(Ln == 0 || DISTRUST(1) || Ln >= lop[1]);
}

/* whether the lease key lets a reader who found no value have a lease */
#ifndef REFRESH
#define FREE (Lk == 0 || Lk == 2)
#elif defined(B_FRESHBLOCKS)
#define FREE (Lk == 0 || Lk == 2)
#elif defined(GONE)
#define FREE (Lk == 0 || Lk == 2 || Lk == 4 || (Lk == 1 && Ls == 2)) /* with K == 0 */
#else
#define FREE (Lk == 0 || Lk == 2 || Lk == 4)
#endif
#ifdef REFRESH
#define NOTFREE Lk != 3 && !FREE
#define GRANTED Ls = 0; Lk = 1; Lt = t
#else
#define NOTFREE Lk == 1
#define GRANTED Lk = 1; Lt = t
#endif
/* waited: the token of the lease that the asker waited for, or 0. res: 1 granted, 2 loading, 3 writing or
 * unleased (load, store nothing), 4 present, 5 absent. */
inline X_LEASE(t, waited, res) {
  if
#ifndef NORECHECK
  :: K != 0 -> res = 4
  :: K == 0 && Lk == 3 -> res = 5
  :: K == 0 && Lk != 3 && Lw != 0 -> res = 3
  :: K == 0 && Lw == 0 && FREE -> GRANTED; res = 1 /* Lf stays, in the string */
  :: K == 0 && Lw == 0 && NOTFREE -> if :: waited != 0 && Lf == waited -> res = 3 :: else -> res = 2 fi
#else
  :: Lw != 0 -> res = 3
  :: Lw == 0 && Lk != 1 -> NOLEASE; Lk = 1; Lt = t; res = 1
  :: Lw == 0 && Lk == 1 -> res = 2
#endif
  fi
}
#define HELD(t) (Lk == 1 && Lt == t)
#ifndef REFRESH
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
#else
#ifdef B_ANYTOKEN
byte fref;   /* flights whose lease was a refresh's */
#endif
/* Whether the fill may store: that of a lease granted at no value always, as without REFRESH,
 * that of a refresh only over the value that it saw, or where there is none. */
#ifdef B_ANYVALUE
#define UNCHANGED true
#elif defined(GONE)
#define UNCHANGED (Ls < 2 || (Ls == 3 && K == 0))
#else
#define UNCHANGED (Ls != 2 || K == 0)
#endif
#ifdef STEADY
#define STORED(v) lo = MAX(lo, v)
#else
#define STORED(v) skip
#endif
#if defined(B_LEAVEVALUE)
#define REMOVED
#elif defined(B_ANYREMOVED)
#define REMOVED K = 0; OURS
#else
#define REMOVED if :: Ls != 0 -> K = 0; OURS :: else fi;
#endif
#if defined(B_ANYREMOVED)
#define MAYSTORE(v) (UNCHANGED || ABSENT(v))
#else
#define MAYSTORE(v) UNCHANGED
#endif
inline X_FILL(t, v, res) {
  if
  :: HELD(t) && !(MAYSTORE(v)) -> NOLEASE; cold = 0; res = 0
  :: HELD(t) && MAYSTORE(v) ->
     assert(Ls == 0 || v >= K);   /* a refresh puts nothing older over what is there */
     if
     :: !ABSENT(v) -> K = v; OURS NOLEASE; Lk = 4
     :: ABSENT(v) -> REMOVED NOLEASE; if :: Lk = 3; Ln = v :: skip /* no NotFoundTTL */ fi
     fi;
     STORED(v); res = 1; CHK()
#ifdef B_ANYTOKEN
  :: !HELD(t) && (fref & BIT(t-1)) && K == 0 && !ABSENT(v) -> K = v; NOLEASE; Lk = 4; res = 1; CHK()
  :: !HELD(t) && !((fref & BIT(t-1)) && K == 0 && !ABSENT(v)) -> res = 0
#else
  :: !HELD(t) -> res = 0
#endif
  fi
}
#ifdef B_NOCOOL
#define COOL (Lk == 0 || Lk == 2)
#else
#define COOL Lk == 0
#endif
#ifdef B_BLOCKED
#define OPEN true
#else
#define OPEN Lw == 0
#endif
/* res: 1 granted, else the refresh ends. K stays. That K is young is told from its remaining
 * time: here, at any time. */
inline X_REFRESH(t, res) {
  if
  :: K == 0 -> X_LEASE(t, 0, res)
#ifdef B_NOCOOL
  :: K != 0 && Lk != 0 && Lk != 2 -> res = 0
#else
  :: K != 0 && Lk != 0 -> res = 0
#endif
#ifndef B_BLOCKED
  :: K != 0 && COOL && Lw != 0 -> res = 0
#endif
  :: K != 0 && COOL && OPEN -> NOLEASE; Lk = 4; res = 0
  :: K != 0 && COOL && OPEN -> NOLEASE; Lk = 1; Lt = t; Ls = 1; res = 1
#ifdef B_ANYTOKEN
     ; fref = fref | BIT(t-1)
#endif
  fi
}
#endif
#ifdef LOADFAILS
#define MARK(t) Lk = 2; Lf = t
#else
#define MARK(t) skip
#endif
#ifdef REFRESH
/* a refresh that failed leaves the value, and is followed by none until `failed` is over */
#define WARM if :: K == 0 || Lk == 0 -> cold = 0 :: else fi
#else
#define WARM cold = 0
#endif
inline X_RELEASE(t) { if :: HELD(t) -> NOLEASE; MARK(t); WARM :: else fi }
inline X_INV() {
  DELETED cold = 0; INVALIDATED;
#ifdef B_INVALL
  Lw = 0
#endif
}
inline X_SEIZE(w) {
  DELETED cold = 0; INVALIDATED;
#ifdef B_ONETOKEN
  Lw = BIT(w)
#else
  Lw = Lw | BIT(w)
#endif
}
inline X_FINAL(w) {
  DELETED cold = 0;
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
inline X_CLEARVALUES() { DELETED cold = 0 }
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
#define OPG 7

#ifdef B_JOIN
#define CONF (fconf & BIT(f))
#else
#define CONF ((fconf & BIT(f)) && !(mF & BIT(f)))
#endif
#define ACCEPT ((!(mS & BIT(f)) && !(fwake & BIT(f)) && (started & BIT(f))) || CONF)

/* A value that is returned is compared with what was promised when its reader arrived. This
 * holds for the old value after RefreshWait, too. Compared with mr at the return it would
 * fail, and wrongly: another read, which began later, may have returned a newer value, and the
 * place of this one is its MGET, before that write. (CHK has K >= mr at each MGET.) */
#ifndef REFRESH
#define RETURNED assert(v >= low); mr = MAX(mr, v)
#define NOVALUE goto done
#define OWN
#else
#ifdef FSETEX
#define OWN x = false;
#define RETURNED if :: bg || x :: else -> assert(v >= low); mr = MAX(mr, v) fi
#else
#define OWN
#define RETURNED if :: bg :: else -> assert(v >= low); mr = MAX(mr, v) fi
#endif
#ifdef RWAIT
#define NOVALUE if :: old != 0 -> v = old; goto ret :: else -> goto done fi
#else
#define NOVALUE goto done
#endif
#endif

proctype Reader(byte r; byte p) {
  byte low, mS, mF, v, f, res, seen, waited; bool deg;
#ifdef REFRESH
  bool bg;          /* this reader has its value; what goes on is a refresh */
#ifdef RWAIT
  byte old;         /* the value that a reader has who waits for a refresh */
#endif
#ifdef FSETEX
  bool x;           /* v is another program's */
#endif
#endif
  d_step { /* arrives */
    low = MAX(lo, lop[p]);
#ifdef LIN
    low = MAX(low, mr);
#endif
    mS = started; mF = fsent
  }
again:
  deg = false; OWN
  if
  :: atomic { DISTRUST(p) -> deg = true }
  :: !DISTRUST(p) ->
     if
#ifdef REFRESH
     :: atomic { K != 0 -> TAKE; if :: Lk == 4 -> goto ret :: else -> goto overage fi }
#else
     :: d_step { K != 0 -> v = K } ; goto ret
#endif
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
  :: !deg -> atomic { if :: DISTRUST(p) -> deg = true :: else -> X_LEASE(r+1, waited, res); if :: res == 2 -> seen = Lt; waited = Lt :: res == 4 -> TAKE :: res == 5 -> v = Ln; res = 4 :: else fi fi }
#ifndef LIN_NOREADFAULT
#ifdef B_RETRY
  :: atomic { !deg && faults > 0 -> STASH(OPL, r+1, 0) }; atomic { X_LEASE(r+1, waited, res); if :: res == 2 -> seen = Lt; waited = Lt :: res == 4 -> TAKE :: res == 5 -> v = Ln; res = 4 :: else fi }
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
     :: d_step { K != 0 -> TAKE } ; goto polled
     :: d_step { K == 0 && Lk == 3 -> v = Ln } ; goto polled
     :: !HELD(seen) && K == 0 && Lk != 3 -> goto ask
     fi
  :: else
  fi;
  /* load: start, read, (minutes), end */
#ifdef REFRESH
load:
#endif
  started = started | BIT(r);
  d_step { v = db; if :: res == 1 -> cold++ :: else fi }
#ifdef LOADFAILS
  /* the load ends without a value: its waiters get the error */
  if
  :: skip
  :: atomic { if :: res == 1 -> X_RELEASE(r+1) :: else fi; fdead = fdead | BIT(r); if :: cur[p] == r + 1 -> cur[p] = 0 :: else fi; NOVALUE }
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
    OWN RETURNED;
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
#ifdef REFRESH
overage:   /* the reader has K, and no `fresh` beside it */
  atomic {
    if
    :: cur[p] == 0 -> cur[p] = r + 1; RETURNED; bg = true; rdone[r] = true
    :: goto ret   /* another flight goes on, or as many refreshes as may be */
#ifdef RWAIT
    :: cur[p] == 0 -> cur[p] = r + 1; old = v
    :: cur[p] != 0 -> f = cur[p] - 1; old = v; goto stay
#endif
    fi
  }
  /* the refresh: a flight that ends where it is not granted */
  res = 0;
  if
  :: atomic { if :: DISTRUST(p) :: else -> X_REFRESH(r+1, res) fi }
  :: atomic { faults > 0 -> STASH(OPG, NR+1+r, 0) }
#ifdef B_RETRY
  :: atomic { !DISTRUST(p) && faults > 0 -> STASH(OPG, r+1, 0); X_REFRESH(r+1, res) }
#endif
  fi;
  if
  :: res == 1 -> goto load
  :: else -> atomic { res = 0; fdone = fdone | BIT(r); if :: cur[p] == r + 1 -> cur[p] = 0 :: else fi; NOVALUE }
  fi;
#ifdef RWAIT
stay:      /* for the refresh, and then it has its old value, which it may return at any time */
  if
#ifdef B_WAITANY
  :: floaded & BIT(f) -> v = fval[f]; OWN
#else
  :: atomic { (floaded & BIT(f)) && !(mS & BIT(f)) -> v = fval[f]; OWN }
#endif
  :: atomic { (fdone & BIT(f)) && ACCEPT -> v = fval[f]; OWN }
  :: skip
  fi;
  goto ret;
#endif
#endif
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
  d_step { RETURNED;
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
  d_step { K = 0; OURS NOLEASE; cold = 0 }
#elif FOREIGN == 2
  d_step { K = 0; OURS REPLACED cold = 0 }
#endif
#if FOREIGN < 3
  d_step { lo = MAX(lo, my); CHK() }
#endif
}
proctype ForeignSetex() {
  byte v;
  K == 0; v = db;
#if !defined(REFRESH) || !defined(FSETEX)
  d_step { K = v; CHK() }
#else
  /* or a Set of ours, which drops the lease, or says that K is fresh */
  atomic { K = v; kx = true; REPLACED if :: skip :: NOLEASE :: NOLEASE; Lk = 4 fi; CHK() }
#endif
}
#if STORETHROUGH > 0
proctype StoreThrough() {
  byte my;
  d_step { db++; my = db }
  d_step { if :: ABSENT(my) -> K = 0 :: else -> K = my fi; OURS REPLACED CHK() }
#if STORETHROUGH == 2
  d_step { lo = MAX(lo, my); CHK() }
#endif
}
#endif

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
  :: d_step { K != 0 -> K = 0; OURS LAPSED cold = 0 }
#ifdef GONE
  :: d_step { Ls == 2 -> Ls = 3 }   /* the end of the value that is gone is over, too */
#endif
#endif
#ifdef KEPT
  :: d_step { Lk == 1 && (Lt > NR || ((fdead | fdone) & BIT(Lt-1))) -> NOLEASE; cold = 0 }
#else
#ifndef NOLTTL
  :: d_step { Lk == 1 -> NOLEASE; cold = 0 }
#endif
#endif
#ifdef LOADFAILS
#ifdef REFRESH
  :: d_step { Lk == 2 -> NOLEASE; cold = 0 }
#else
  :: d_step { Lk == 2 -> NOLEASE }
#endif
#endif
#if defined(REFRESH) && !defined(NOFTTL)
  :: d_step { Lk == 4 -> NOLEASE; cold = 0 }   /* the value is over-age */
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
#ifdef REFRESH
       :: zop[0] == OPG -> X_REFRESH(za[0], res)
#endif
       fi; zop[0] = zop[1]; za[0] = za[1]; zv[0] = zv[1]; zop[1] = 0; za[1] = 0; zv[1] = 0; res = 0 }
  :: atomic { zop[1] != 0 ->
       if
       :: zop[1] == OPL -> X_LEASE(za[1], 0, res)
       :: zop[1] == OPF -> X_FILL(za[1], zv[1], res)
       :: zop[1] == OPI -> X_INV()
       :: zop[1] == OPS -> X_SEIZE(za[1])
       :: zop[1] == OPN -> X_FINAL(za[1])
       :: zop[1] == OPR -> X_RELEASE(za[1])
#ifdef REFRESH
       :: zop[1] == OPG -> X_REFRESH(za[1], res)
#endif
       fi; zop[1] = 0; za[1] = 0; zv[1] = 0; res = 0 }
  od
}

init {
  atomic {
#ifdef K1
    K = 1;       /* warm start */
#ifdef NOTFOUND
    db = 2; K = 2;
#endif
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
#if STORETHROUGH > 0
    run StoreThrough();
#endif
    run Deliver(0); run Deliver(1); run Env()
  }
}
#ifdef LIVE
/* every reader that started ends (a crashed leader's process counts as ended) */
ltl prog { <> (rdone[0] && rdone[1]) }
#endif
