/* KV of a failed attempt that P keeps and hands over again: StartPrefill.reuse_attempt. One level above kv.pml: what is
 * on the wire is one chunk, and what D checks of it is left to kv.pml; here it is P's side that can go wrong.
 *
 * One P with one block, NR requests of NA attempts, each attempt with a D of its own, and NOTHER other tenants who take the
 * block whenever it is free, fill it and give it back. Transfer x is attempt x % NA of
 * request x / NA. All attempts of a request are the same work, so their KV is the same bytes. Every transition is one
 * event under one lock; a lease, a hold or a time-out may end at any time at which it is armed.
 *
 * Invariants:
 *   I1  what a D takes is its own request's KV
 *   I3  nothing is allocated while it is pinned; a block has one owner
 *   I6  when nothing can happen any more, every request has ended and the block is free
 *
 * Guards, each switched off by its -D flag (README.md: which removals another place makes good):
 *   NO_HELD_CHECK  P takes an attempt to be held without asking the engine (engine.rekey)
 *   NO_SRC_OWNER   pin does not compare owners (block_table._pin)
 *   NO_SRC_GEN     pin does not compare generations there
 *   NO_COMMIT_KEY  a Commit of the earlier attempt frees what is another attempt's meanwhile (role._on_committed)
 *   NO_SENDER_END  the earlier attempt's hand-over is not ended when its blocks change hands (role._hand_over_again)
 *   NO_UNPIN_FREE  the last unpin does not free a released block
 *   NO_HOLD_END    P holds for ever: neither lease nor hold ends
 *   NO_DROP        the router does not tell P to let go of what no attempt will take (ledger.drop_held)
 * REACH_REUSE, REACH_LATE_COMMIT, REACH_REFUSED are reached states.
 */
#ifndef NR
#define NR 1
#endif
#ifndef NA
#define NA 2
#endif
#ifndef NLOST
#define NLOST 1                          /* decode workers that die, or are lost from sight */
#endif
#ifndef NCANCEL
#define NCANCEL 1
#endif
#ifndef NOTHER
#define NOTHER 1
#endif
#define NX (NR * NA)
#define OTHER 14                         /* owner of the block, and its bytes */
#define NOBODY 15
#define REQUEST(x) ((x) / NA)
#define KV(x) (REQUEST(x) + 1)
#define CURRENT(r) ((r) * NA + attempt[r])
#ifndef NO_SRC_OWNER
#define OTHERS(x) (src_owner != x)
#else
#define OTHERS(x) false
#endif
#ifndef NO_SRC_GEN
#define OLDER(x) (src_gen != s_gen[x])
#else
#define OLDER(x) false
#endif

/* router/attempt.Stage; PREFILLING stands for SEALED and HANDING too */
#define ADMITTED 0
#define PREFILLING 1
#define DECODING 2
#define ENDED 3
byte stage[NR], attempt[NR];
bit held[NR];                            /* ledger.held: P keeps what the attempt before this one computed */

/* on the way to P: a fresh StartPrefill (also: it waits in the engine), one with reuse_attempt, Abort, D's Commit */
#define FRESH 1
#define REUSE 2
byte start[NX];
bit abort_p[NX], commit[NX];
bit failed[NX], failed_held[NX], handed_over[NX];          /* on the way to the router: AttemptFailed, HandoverDone */

/* engine/kv/block_table, the one block */
#define FREE 0
#define FILLING 1
#define SEALED 2
#define RELEASED 3
byte src_state, src_owner = NOBODY, src_gen, src_pins, src_data;

/* prefill_worker/role: what it knows of an attempt */
#define NOTHING 0
#define COMPUTING 1
#define DONE 2
#define OVER 3
byte p_role[NX];
/* kvtransfer sender: offered, sent whole, over */
#define OFFERED 1
#define SENT 2
#define S_DONE 3
byte s_state[NX], s_gen[NX];
/* SenderLink */
#define IDLE 0
#define TAKEN 1
#define HELD 2
byte pl_phase, pl_x;

byte net_chunk[NX];                      /* 0 or its bytes */
#define WAITING 1
#define HAS 2
#define GONE 3
byte d_role[NX];
#ifdef REACH_REUSE
bit reused[NX];
#endif
byte lost = NLOST, cancels = NCANCEL, others = NOTHER;

/* --- router ------------------------------------------------------------------------------------------------------- */

inline drop_held(r) {
  if :: held[r] -> held[r] = 0;
#ifndef NO_DROP
        abort_p[CURRENT(r) - 1] = 1
#endif
     :: else fi
}

inline again(r, keep) {                  /* _attempt_failed: P is told to let go, or is not */
  d_role[CURRENT(r)] = GONE; net_chunk[CURRENT(r)] = 0;
  if :: attempt[r] + 1 < NA ->
        if :: keep :: else -> abort_p[CURRENT(r)] = 1 fi;
        attempt[r]++; held[r] = keep; stage[r] = ADMITTED
     :: else -> abort_p[CURRENT(r)] = 1; stage[r] = ENDED fi
}

proctype RequestLedger(byte r) {
end: do
  :: d_step { stage[r] == ADMITTED ->                              /* dispatched, or P refuses by placement */
      stage[r] = PREFILLING; d_role[CURRENT(r)] = WAITING;
      if :: held[r] -> start[CURRENT(r)] = REUSE :: else -> start[CURRENT(r)] = FRESH fi; held[r] = 0 }
  :: d_step { stage[r] == ADMITTED && held[r] -> drop_held(r) }    /* nobody can take it over from there */
  :: d_step { cancels > 0 && stage[r] != ENDED ->
      cancels--; drop_held(r);
      if :: stage[r] != ADMITTED -> abort_p[CURRENT(r)] = 1; d_role[CURRENT(r)] = GONE; net_chunk[CURRENT(r)] = 0
         :: else fi;
      stage[r] = ENDED }
  :: d_step { lost > 0 && stage[r] == PREFILLING -> lost--; again(r, 1) }   /* D: P keeps what it has */
  :: d_step { lost > 0 && stage[r] == DECODING -> lost--; again(r, 0) }
  :: d_step { stage[r] == DECODING -> stage[r] = ENDED; abort_p[CURRENT(r)] = 1 }    /* ended well */
  od
}

proctype Word(byte x) {                  /* of attempt x, to the router */
end: do
  :: d_step { failed[x] -> failed[x] = 0;
      if :: stage[REQUEST(x)] == PREFILLING && x == CURRENT(REQUEST(x)) -> again(REQUEST(x), 0)
         :: stage[REQUEST(x)] == ADMITTED && held[REQUEST(x)] && x + 1 == CURRENT(REQUEST(x)) -> drop_held(REQUEST(x))
         :: else fi }
  :: d_step { failed_held[x] -> failed_held[x] = 0;
      if :: stage[REQUEST(x)] == PREFILLING && x == CURRENT(REQUEST(x)) -> again(REQUEST(x), 1) :: else fi }
  :: d_step { handed_over[x] -> handed_over[x] = 0;
      if :: stage[REQUEST(x)] == PREFILLING && x == CURRENT(REQUEST(x)) -> stage[REQUEST(x)] = DECODING :: else fi }
  :: d_step { net_chunk[x] != 0 ->                                 /* D */
      if :: d_role[x] == WAITING ->
            assert(net_chunk[x] == KV(x));                         /* I1 */
#ifdef REACH_REUSE
            assert(!reused[x]);
#endif
            d_role[x] = HAS; commit[x] = 1; handed_over[x] = 1
         :: else fi;
      net_chunk[x] = 0 }
  od
}

/* --- P ------------------------------------------------------------------------------------------------------------ */

inline release(x) {
  if :: src_owner == x ->
        src_owner = NOBODY;
        if :: src_pins -> src_state = RELEASED :: else -> src_state = FREE fi
     :: else fi
}

inline end_prefill(x) { release(x); p_role[x] = OVER; s_state[x] = S_DONE; start[x] = 0 }

proctype PrefillRole(byte x) {
end: do
  :: d_step { start[x] == FRESH && src_state == FREE ->            /* start_prefill, when the block is free */
      assert(src_pins == 0);                                       /* I3 */
      start[x] = 0; src_state = FILLING; src_owner = x; src_gen++; src_data = 0; p_role[x] = COMPUTING }
  :: d_step { p_role[x] == COMPUTING && src_owner == x ->          /* offer, seal */
      src_state = SEALED; src_data = KV(x); p_role[x] = DONE; s_state[x] = OFFERED; s_gen[x] = src_gen }
#if NA > 1
  :: d_step { start[x] == REUSE ->                                 /* _hand_over_again: of attempt x - 1 */
      start[x] = 0;
      if
      :: start[x - 1] == FRESH -> start[x - 1] = 0; p_role[x - 1] = OVER; start[x] = FRESH     /* not begun yet */
#ifndef NO_HELD_CHECK
      :: start[x - 1] != FRESH && (p_role[x - 1] == COMPUTING || p_role[x - 1] == DONE) && src_owner == x - 1 ->
#else
      :: start[x - 1] != FRESH && p_role[x - 1] != NOTHING ->
#endif
        if :: src_owner == x - 1 -> src_owner = x :: else fi;      /* rekey: the generation stays */
        if :: p_role[x - 1] == COMPUTING -> p_role[x] = COMPUTING
           :: else -> p_role[x] = DONE; s_state[x] = OFFERED; s_gen[x] = s_gen[x - 1] fi;
        p_role[x - 1] = OVER;
#ifdef REACH_REUSE
        reused[x] = 1;
#endif
#ifndef NO_SENDER_END
        s_state[x - 1] = S_DONE
#endif
      :: else -> p_role[x] = OVER; failed[x] = 1;                  /* KV_NOT_HELD */
#ifdef REACH_REFUSED
        assert(false)
#endif
      fi }
#endif
  :: d_step { abort_p[x] && start[x] != REUSE ->                   /* one stream: a command never overtakes another */
      abort_p[x] = 0; if :: p_role[x] != OVER -> end_prefill(x) :: else fi }
  :: d_step { commit[x] -> commit[x] = 0;
      if :: p_role[x] == DONE -> end_prefill(x)
         :: else ->                                                /* over, or another attempt's meanwhile */
#ifdef REACH_LATE_COMMIT
           assert(x + 1 >= NX || REQUEST(x + 1) != REQUEST(x) || src_owner != x + 1);
#endif
#ifdef NO_COMMIT_KEY
           if :: src_owner < OTHER && REQUEST(src_owner) == REQUEST(x) -> release(src_owner) :: else fi
#else
           skip
#endif
      fi }
  :: d_step { s_state[x] == OFFERED || s_state[x] == SENT ->       /* the hand-over fails; P holds for a while */
      s_state[x] = S_DONE;
      if :: p_role[x] == DONE -> failed_held[x] = 1 :: else fi }
#ifndef NO_HOLD_END
  :: d_step { p_role[x] == DONE -> end_prefill(x); failed[x] = 1 }   /* the lease, or the hold, ends */
#endif
  /* SenderLink: choose, pin, copy out and send, let go */
  :: d_step { pl_phase == IDLE && s_state[x] == OFFERED -> pl_phase = TAKEN; pl_x = x }
  :: d_step { pl_phase == TAKEN && pl_x == x ->
      if
      :: src_state != SEALED || OTHERS(x) || OLDER(x) -> pl_phase = IDLE; pl_x = 0;                             /* SourceGone */
            if :: s_state[x] == OFFERED && p_role[x] == DONE -> end_prefill(x); failed[x] = 1
               :: else -> s_state[x] = S_DONE fi
      :: else -> src_pins++; pl_phase = HELD
      fi }
  :: d_step { pl_phase == HELD && pl_x == x ->
      if :: d_role[x] == WAITING -> net_chunk[x] = src_data :: else fi;
      src_pins--;
#ifndef NO_UNPIN_FREE
      if :: src_state == RELEASED && src_pins == 0 -> src_state = FREE :: else fi;
#endif
      if :: s_state[x] == OFFERED -> s_state[x] = SENT :: else fi;
      pl_phase = IDLE; pl_x = 0 }
  od
}

proctype Others() {                      /* as a prefill of somebody else: allocated, sealed, released */
end: do
  :: d_step { others > 0 && src_state == FREE -> others--;
      assert(src_pins == 0);                                       /* I3 */
      src_state = FILLING; src_owner = OTHER; src_gen++; src_data = 0 }
  :: d_step { src_owner == OTHER && src_state == FILLING -> src_state = SEALED; src_data = OTHER }
  :: d_step { src_owner == OTHER && src_state == SEALED -> release(OTHER) }
  od
}

proctype Quiescence() {
  byte k;
  timeout ->
    assert(src_state == FREE && src_pins == 0);                    /* I6 */
    do :: k < NR -> assert(stage[k] == ENDED); k++ :: else -> break od
}

init {
  byte i;
  atomic {
    do :: i < NR -> run RequestLedger(i); i++ :: else -> break od;
    i = 0;
    do :: i < NX -> run Word(i); run PrefillRole(i); i++ :: else -> break od;
    run Others();
    run Quiescence()
  }
}
