/* claim.pml - claims: the lease with a value that keeps generation:A, one key.
 *
 * K   value key: 0 absent, else the owner whose claim wrote it, FOREIGN when another program did
 * C   the claim in the lease key: 0 absent, else its owner
 *
 * Each process starts a generation: it claims the key, renews it for a while (claiming again
 * when it is gone), and finishes: it releases, again and again until a release was answered.
 * A command that is lost is reported as failed at once and is carried out later or never (NF of them).
 *
 * Checked:
 *   OWN    a release removes nobody else's value
 *   ONE    two that hold the claim at once: never, unless the key was taken from the first
 *          by expiry, eviction or another program (switched on by TAKEN, which switches ONE off)
 *   GONE   when all have finished, nothing is left, unless a claim was carried out late
 *          (those expire), or the claim in the lease key was taken (likewise)
 *
 *   B_ANYRELEASE  a release does not compare the owner
 *   B_NEWTOKEN    a claim whose answer was lost is asked for again as a new owner
 *   B_FORGET      a claim whose answer was lost is not released
 *
 * RUN ./check claim NAME -DNF=2 …
 */
#ifndef NF
#define NF 1
#endif
#ifndef NP
#define NP 2
#endif
#define FOREIGN 9
byte K, C, faults = NF;
byte zop[2], zo[2];
bool holds[NP], done[NP], late, takenL;
#define CLAIM 1
#define RELEASE 2
#define EXTEND 3

inline X_CLAIM(o, res) {
  if
  :: K != 0 && C == o -> res = 1
  :: K != 0 && C != o -> res = 2
  :: K == 0 -> K = o; C = o; res = 1
  fi
}
inline X_EXTEND(o, res) { if :: C == o && K != 0 -> res = 1 :: else -> res = 0 fi }
inline X_RELEASE(o) {
#ifdef B_ANYRELEASE
  assert(K == 0 || K == o); K = 0; C = 0
#else
  if :: C == o -> assert(K == 0 || K == o); K = 0; C = 0 :: else fi
#endif
}
inline STASH(op, o) {
  faults > 0; faults--;
  if :: zop[0] == 0 -> zop[0] = op; zo[0] = o
     :: zop[0] != 0 && zop[1] == 0 -> zop[1] = op; zo[1] = o
     :: true /* dropped */
  fi
}
inline CHK1() {
#ifndef TAKEN
  assert(!(holds[0] && holds[1]))
#else
  skip
#endif
}

proctype Process(byte p) {
  byte o = p + 1, res, beats; bool claimed;
claim:
  if
  :: atomic { X_CLAIM(o, res); if :: res == 1 -> claimed = true; holds[p] = true; CHK1() :: else fi }
     if :: res == 2 -> goto finish :: else fi   /* ErrGenerating, or taken by another */
  :: atomic { faults > 0 -> if :: STASH(CLAIM, o) :: faults--; X_CLAIM(o, res) /* only the answer is lost */ fi; res = 0;
#ifndef B_FORGET
     claimed = true
#endif
     }
#ifdef B_NEWTOKEN
     o = o + NP
#endif
  fi;
  do
  :: beats < 3 -> beats++;
     if
     :: !holds[p] -> goto claim
     :: atomic { holds[p] -> X_EXTEND(o, res); if :: res == 0 -> holds[p] = false :: else fi }
        if :: res == 0 -> goto claim :: else fi
     :: atomic { holds[p] && faults > 0 -> STASH(EXTEND, o) }
     fi
  :: break
  od;
finish:
  atomic { holds[p] = false }
  do
  :: !claimed -> break
  :: atomic { claimed -> X_RELEASE(o) } ; break
  :: atomic { claimed && faults > 0 -> if :: STASH(RELEASE, o) :: faults--; X_RELEASE(o) fi }
  od;
  done[p] = true
}
proctype Env() {
  byte res;
end: do
  :: atomic { zop[0] != 0 ->
       if :: zop[0] == CLAIM -> late = late || (K == 0); X_CLAIM(zo[0], res) :: zop[0] == RELEASE -> X_RELEASE(zo[0]) :: else fi;
       zop[0] = zop[1]; zo[0] = zo[1]; zop[1] = 0; zo[1] = 0; res = 0 }
#ifdef TAKEN
  :: d_step { K != 0 && K != FOREIGN -> K = 0 }
  :: d_step { C != 0 -> C = 0; takenL = true }
#endif
#if NP == 2
  :: atomic { done[0] && done[1] && !late && !takenL && zop[0] == 0 -> assert(K == 0); break }
#endif
  od
}
init { atomic { run Process(0); run Process(1); run Env() } }
