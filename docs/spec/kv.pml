/* The hand-over of a prompt's KV from a prefill worker P to a decode worker D, and the router's ledger above it.
 *
 * States and messages carry the names of the code; README.md maps them. One source block, one destination block, NC
 * chunks a block. Transfer x is attempt x % NA of request x / NA. Every transition is one event that the code handles under one lock; between any two of them anything
 * else may happen, so threads need no further modelling.
 *
 * Adversary. A frame may arrive at any later time, before or after any other one, NDUP of them twice, NFLIP with a
 * changed byte. Every time-out and lease may end at any time at which it is armed, so a frame that is lost is one that
 * arrives after everybody has stopped waiting. The client cancels (NCANCEL), an engine fails an attempt by itself
 * (NENGINE), D (NCRASH_D) and P (NCRASH_P) die and start again with a new epoch and all generations at 0.
 *
 * Invariants:
 *   I1  a decode step reads only its own attempt's KV, whole
 *   I2  no byte is written into a block for a transfer that does not hold it
 *   I3  allocate and free alternate; nothing is allocated or committed while it is pinned
 *   I4  an attempt is given up only for a failure of its own
 *   I6  when nothing can happen any more, every request has ended and every block is free
 *
 * Guards, each switched off by its -D flag. A rule is often enforced in several places: README.md lists which removals
 * break an invariant and which are made good by another place.
 *   NO_ATTEMPT     frames name the request, not the attempt (identity.transfer_tag; the table's owner as well)
 *   NO_EPOCH       the receiver does not compare its epoch with the frame's
 *   NO_GEN         the receiving machine does not compare generations (machine/receiver._refusal)
 *   NO_TABLE_GEN   the block table does not compare generations when a write or a copy begins (block_table._pin)
 *   NO_TABLE_OWNER the block table does not compare owners there
 *   NO_TABLE_STATE the block table does not compare states there
 *   NO_DUP         the receiving machine takes chunks it has, and chunks after the end (machine/receiver._refusal)
 *   NO_SRC         the sender does not re-validate its source block when it begins a copy (R3)
 *   NO_SRC_PIN     a block that is released under a reader is free at once
 *   NO_DST_PIN     a block that is released under a writer is free at once
 *   NO_UNPIN_FREE  the last unpin does not free a released block
 *   NO_COUNT       the bitmap of chunks is not asked (R4)
 *   NO_SEAL        the seal's count and MAC are not compared (R4)
 *   NO_DIGEST      a chunk's digest is not compared with what landed (R4)
 *   NO_FREE_KEY    an abort frees the block, whoever holds it now (R6)
 *   NO_LEDGER      the ledger does not compare the attempt of a failure report (R6, R7)
 *   NO_LEASE       sealed source blocks have no lease
 *   NO_ABORT_P     the router tells only D that an attempt is over
 * Not guards:
 *   ONLY_I1        leaves I2 and I3 unchecked, to show how far a defect goes
 *   REACH_DONE, REACH_RETRY, REACH_RESTART, REACH_LATE   are reached states, to show that the model does something
 */
#ifndef NR
#define NR 2                             /* requests */
#endif
#ifndef NA
#define NA 1                             /* attempts of each */
#endif
#ifndef NDUP
#define NDUP 1
#endif
#ifndef NFLIP
#define NFLIP 0
#endif
#ifndef NCANCEL
#define NCANCEL 0
#endif
#ifndef NENGINE
#define NENGINE 0
#endif
#ifndef NCRASH_D
#define NCRASH_D 0
#endif
#ifndef NCRASH_P
#define NCRASH_P 0
#endif
#define NX (NR * NA)
#define NC 2
#define ALL ((1 << NC) - 1)
#define NOBODY 15
#define BROKEN 14                        /* a chunk's bytes after a flip */
#define KV(x) ((x) + 1)                  /* the bytes that P computes for transfer x; 0 are cleared bytes */
#define GROWN(x) ((x) + 5)               /* the last chunk after D has added a token's KV to it */
#define REQUEST(x) ((x) / NA)
#define DIGEST(x, c) (s_digest[(x) * NC + (c)] == 0 -> KV(x) : s_digest[(x) * NC + (c)])
#define CURRENT(r) ((r) * NA + attempt[r])

/* router/attempt.Stage; PREFILLING stands for PREFILLING, SEALED and HANDING, which differ only in what is reported */
#define ADMITTED 0
#define PREFILLING 1
#define DECODING 2
#define ENDED 3
byte stage[NR];
byte attempt[NR];
bit reported[NX];                        /* an AttemptFailed, or the loss of a worker, is on its way to the router */
bit has_failed[NX];
bit abort_p[NX];                         /* core.messages.Abort on its way */
bit abort_d[NX];

/* engine/kv/block_table.BlockState, of the source block and of the destination block */
#define FREE 0
#define FILLING 1
#define SEALED 2
#define RECEIVING 3
#define COMMITTED 4
#define RELEASED 5
byte src_state, src_owner = NOBODY, src_gen, src_pins, src_data[NC];
byte dst_state, dst_owner = NOBODY, dst_gen, dst_pins, dst_data[NC];

/* What a role service knows of an attempt: commanded, holding its block, (at D) decoding, decoding on its own KV, over */
#define NOTHING 0
#define COMMANDED 1
#define HOLDING 2
#define RUNNING 3
#define GROWING 4
#define OVER 5
byte p_role[NX], d_role[NX];

/* kvtransfer/machine/sender.SenderState */
#define COLLECTING 1
#define STREAMING 2
#define S_SEALED 3
#define S_DONE 4
byte s_state[NX];
bit s_offered[NX];
byte s_src_gen[NX], s_num_sent[NX], s_digest[NX * NC];   /* 0: the digest of KV(x) */
bit p_tell[NX];                          /* the engine has ended it; the sender is about to be told */

/* kvtransfer/machine/receiver.ReceiverState */
#define EXPECTING 1
#define R_RECEIVING 2
#define VERIFIED 3
#define R_COMMITTED 4
#define R_DONE 5
byte r_state[NX];
byte r_landed[NX], r_digest[NX * NC];            /* likewise */
bit r_sealed[NX];
bit d_ready[NX];                         /* on_ready is in the engine's inbox */
bit d_failed[NX];                        /* on_failed is in the engine's inbox */
bit d_tell[NX];                          /* the engine has ended it; the receiver is about to be told */
byte epoch;

/* The grant, as D made it and as every frame of the transfer repeats it */
byte grant_gen[NX], grant_epoch[NX];

/* Frames on their way. Chunk: 0 or its bytes. */
bit net_grant[NX], net_open[NX], net_seal[NX], net_ack[NX], net_abort_d[NX];   /* to P; then to D */
bit net_commit[NX], net_abort_p[NX];                                           /* to P */
byte net_chunk[NX * NC];

/* The connection's thread at either end: what it has in hand */
#define IDLE 0
#define TAKEN 1                          /* chosen (P) or accepted by the machine (D); the table was not asked yet */
#define HELD 2                           /* pinned */
byte pl_phase, pl_x, pl_c;
byte dl_phase, dl_x, dl_frame, dl_c, dl_data;

byte dups = NDUP, flips = NFLIP, cancels = NCANCEL, engine_faults = NENGINE, crashes_d = NCRASH_D, crashes_p = NCRASH_P;
byte found, k;
byte other;

/* --- router/ledger ------------------------------------------------------------------------------------------------ */

inline report(x) {
#ifdef NO_LEDGER
  has_failed[x] = 1; reported[x] = 1
#else
  if :: x == CURRENT(REQUEST(x)) && stage[REQUEST(x)] != ENDED -> has_failed[x] = 1; reported[x] = 1 :: else fi
#endif
}

/* _close_attempt: tell every side that may hold something of it */
inline close_attempt(x) {
#ifndef NO_LEDGER
  reported[x] = 0;
#endif
  if :: p_role[x] != OVER ->
#ifndef NO_ABORT_P
    abort_p[x] = 1
#else
    skip
#endif
  :: else fi;
  if :: d_role[x] != OVER -> abort_d[x] = 1 :: else fi
}

inline attempt_failed(r, x) {
  if
#ifndef NO_LEDGER
  :: x != CURRENT(r) -> skip                                       /* num_stale */
#endif
  :: stage[r] == ADMITTED || stage[r] == ENDED -> skip
  :: stage[r] == DECODING && x == CURRENT(r) && d_role[x] != OVER -> skip   /* P's, and D has all */
  :: else ->
    assert(has_failed[CURRENT(r)]);                                /* I4 */
    close_attempt(CURRENT(r));
    if
    :: attempt[r] + 1 < NA -> attempt[r]++; stage[r] = ADMITTED
    :: else -> stage[r] = ENDED
    fi
  fi
}

proctype RequestLedger(byte r) {
end: do
  :: d_step { stage[r] == ADMITTED ->                              /* dispatched */
      stage[r] = PREFILLING; p_role[CURRENT(r)] = COMMANDED; d_role[CURRENT(r)] = COMMANDED }
  :: d_step { cancels > 0 && stage[r] != ENDED ->                  /* cancelled */
      cancels--;
      if :: stage[r] != ADMITTED -> close_attempt(CURRENT(r)) :: else fi;
      stage[r] = ENDED }
  :: d_step { reported[r * NA] -> reported[r * NA] = 0; attempt_failed(r, r * NA) }
#if NA > 1
  :: d_step { reported[r * NA + 1] ->
      reported[r * NA + 1] = 0; attempt_failed(r, r * NA + 1) }
#endif
  od
}

/* --- block tables ------------------------------------------------------------------------------------------------- */

inline release_src(x) {
  if :: src_owner == x ->
    src_owner = NOBODY;
#ifdef NO_SRC_PIN
    src_state = FREE
#else
    if :: src_pins -> src_state = RELEASED :: else -> src_state = FREE fi
#endif
  :: else fi
}

inline unpin_src() {
  src_pins--;
#ifndef NO_UNPIN_FREE
  if :: src_state == RELEASED && src_pins == 0 -> src_state = FREE :: else fi
#endif
}

inline release_dst(x) {
#ifdef NO_FREE_KEY
  if :: dst_state == RECEIVING || dst_state == COMMITTED ->
#else
  if :: dst_owner == x ->
#endif
    dst_owner = NOBODY;
#ifdef NO_DST_PIN
    dst_state = FREE
#else
    if :: dst_pins -> dst_state = RELEASED :: else -> dst_state = FREE fi
#endif
  :: else fi
}

inline unpin_dst() {
  dst_pins--;
#ifndef NO_UNPIN_FREE
  if :: dst_state == RELEASED && dst_pins == 0 -> dst_state = FREE :: else fi
#endif
}

/* --- P: prefill role, HandoverSender, lease, SenderLink ----------------------------------------------------------- */

/* What comes for a machine that is over has no effect (a Commit is still answered), so it is taken off the way at once */
inline forget_sender(x) {
  s_state[x] = S_DONE; s_offered[x] = 0; s_src_gen[x] = 0; p_tell[x] = 0; net_grant[x] = 0; net_abort_p[x] = 0
}

/* Failed and AbortAsked alike: the machine is over, the blocks go back, the receiver is told */
inline end_sender(x) {
  if :: (s_state[x] == STREAMING || s_state[x] == S_SEALED) && r_state[x] != R_DONE -> net_abort_d[x] = 1 :: else fi;
  forget_sender(x)
}

inline end_prefill(x) { end_sender(x); release_src(x); p_role[x] = OVER; abort_p[x] = 0 }

proctype HandoverSender(byte x) {
end: do
  :: d_step { p_role[x] == COMMANDED && src_state == FREE ->       /* start_prefill, when the block is free */
#ifndef ONLY_I1
#ifndef NO_SRC_PIN
      assert(src_pins == 0);                                       /* I3 */
#endif
#endif
      p_role[x] = HOLDING; src_state = FILLING; src_owner = x; src_gen++; k = 0;
      do :: k < NC -> src_data[k] = 0; k++ :: else -> break od; k = 0 }
  :: d_step { p_role[x] == HOLDING && src_owner == x && src_state == FILLING ->    /* Offered, Sealed, StartLease */
      src_state = SEALED; s_offered[x] = 1; s_src_gen[x] = src_gen; k = 0;
      do :: k < NC -> src_data[k] = KV(x); k++ :: else -> break od; k = 0;
      if :: s_state[x] == NOTHING -> s_state[x] = COLLECTING :: else fi }
  :: d_step { net_grant[x] ->                                      /* Granted */
      net_grant[x] = 0;
      if :: (p_role[x] == COMMANDED || p_role[x] == HOLDING) && s_state[x] < STREAMING ->
            s_state[x] = STREAMING; net_open[x] = (r_state[x] == EXPECTING)
         :: else fi }
  :: atomic { net_commit[x] ->                                     /* CommitGot */
      if :: net_commit[x] = 0 :: dups > 0 -> dups-- fi;
      if :: s_state[x] == S_SEALED -> forget_sender(x); release_src(x); p_role[x] = OVER; abort_p[x] = 0;
            net_ack[x] = (r_state[x] == R_COMMITTED)
         :: s_state[x] == S_DONE -> net_ack[x] = (r_state[x] == R_COMMITTED)
         :: else fi }
  :: d_step { net_abort_p[x] ->                                    /* AbortGot */
      net_abort_p[x] = 0;
      if :: s_state[x] != S_DONE && (p_role[x] == COMMANDED || p_role[x] == HOLDING) -> end_prefill(x); report(x)
         :: else fi }
  :: d_step { s_state[x] == STREAMING ->                           /* Tick, Ended, an unwanted Beat */
      end_prefill(x); report(x) }
#ifndef NO_LEASE
  :: d_step { s_offered[x] && (s_state[x] == COLLECTING || s_state[x] == S_SEALED) ->   /* LeaseExpired, Tick */
      end_prefill(x); report(x) }
#endif
  :: d_step { engine_faults > 0 && p_role[x] == HOLDING ->         /* the engine fails it; the sender hears of it later */
      engine_faults--; release_src(x); p_role[x] = OVER; abort_p[x] = 0; report(x); p_tell[x] = 1 }
  :: d_step { p_tell[x] -> if :: s_state[x] != S_DONE -> end_sender(x) :: else -> p_tell[x] = 0 fi }
  :: d_step { abort_p[x] ->                                        /* PrefillRole.abort */
      abort_p[x] = 0;
      if :: p_role[x] != OVER -> end_prefill(x) :: else fi }
  /* SenderLink: choose, pin, copy out and send, let go */
  :: d_step { pl_phase == IDLE && s_state[x] == STREAMING && s_offered[x] ->
      pl_phase = TAKEN; pl_x = x; pl_c = s_num_sent[x] }
  :: d_step { pl_phase == TAKEN && pl_x == x ->                    /* BlockTable.pin */
      if
#ifndef NO_SRC
      :: src_owner != x || src_gen != s_src_gen[x] || src_state != SEALED ->       /* SourceGone */
        pl_phase = IDLE; pl_x = 0; pl_c = 0;
        if :: s_state[x] != S_DONE -> end_prefill(x); report(x) :: else fi
#endif
      :: else -> src_pins++; pl_phase = HELD
      fi }
  :: d_step { pl_phase == HELD && pl_x == x ->                     /* ChunkSent */
      net_chunk[x * NC + pl_c] = src_data[pl_c];
      if :: src_data[pl_c] == 0 -> net_chunk[x * NC + pl_c] = BROKEN :: else fi;
      if :: net_chunk[x * NC + pl_c] != KV(x) -> s_digest[x * NC + pl_c] = net_chunk[x * NC + pl_c] :: else fi;
      unpin_src();
      if :: s_state[x] == STREAMING -> s_num_sent[x]++;
            if :: s_num_sent[x] == NC -> s_state[x] = S_SEALED; s_num_sent[x] = 0; net_seal[x] = (r_state[x] != R_DONE) :: else fi
         :: else -> s_num_sent[x] = 0 fi;
      pl_phase = IDLE; pl_x = 0; pl_c = 0 }
  od
}

/* --- D: decode role, HandoverReceiver, ReceiverLink ---------------------------------------------------------------- */

/* The open transfer that a frame with this tag belongs to, NOBODY if there is none (KvReceiverService.transfer_of) */
inline look_up(x) {
  found = NOBODY;
#ifdef NO_ATTEMPT
  other = REQUEST(x) * NA;
  if :: r_state[other] >= EXPECTING && r_state[other] < R_DONE -> found = other
     :: else ->
       if :: NA > 1 && r_state[other + NA - 1] >= EXPECTING && r_state[other + NA - 1] < R_DONE ->
             found = other + NA - 1
          :: else fi fi;
  other = 0
#else
  if :: r_state[x] >= EXPECTING && r_state[x] < R_DONE -> found = x :: else fi
#endif
#ifndef NO_EPOCH
  ; if :: grant_epoch[x] != epoch -> found = NOBODY :: else fi
#endif
}

/* Here too: only a late chunk is left on its way, for others to deal with */
inline forget(x) {
  r_state[x] = R_DONE; r_landed[x] = 0; r_sealed[x] = 0; k = 0;
  net_open[x] = 0; net_seal[x] = 0; net_abort_d[x] = 0; net_ack[x] = 0;
  do :: k < NC -> r_digest[x * NC + k] = 0; k++ :: else -> break od; k = 0
}

/* _abort and _fail before VERIFIED */
inline fail_receiver(x) { forget(x); net_abort_p[x] = (s_state[x] != S_DONE); d_failed[x] = 1 }

inline end_decode(x) { release_dst(x); d_role[x] = OVER; d_ready[x] = 0; d_failed[x] = 0; abort_d[x] = 0 }

/* _verify: the bitmap is full (R4), and the seal's count and MAC fit what landed */
inline verify(x) {
  if
#ifdef NO_COUNT
  :: r_sealed[x] ->
#else
  :: r_sealed[x] && r_landed[x] == ALL ->
#endif
#ifndef NO_SEAL
    k = 0; other = 0;
    do :: k < NC -> if :: r_digest[x * NC + k] != s_digest[x * NC + k] || !(r_landed[x] & (1 << k)) -> other = 1 :: else fi; k++
       :: else -> break od;
    k = 0;
    if :: other -> other = 0; fail_receiver(x)
       :: else -> r_state[x] = VERIFIED; r_landed[x] = 0; r_sealed[x] = 0 fi
#else
    r_state[x] = VERIFIED; r_landed[x] = 0; r_sealed[x] = 0
#endif
  :: else fi
}

inline stop_receiving(x) {                                         /* AbortAsked */
  if :: r_state[x] >= EXPECTING && r_state[x] < R_COMMITTED -> forget(x); net_abort_p[x] = (s_state[x] != S_DONE)
     :: r_state[x] == R_COMMITTED -> forget(x)
     :: else fi
}

proctype HandoverReceiver(byte x) {
end: do
  :: d_step { d_role[x] == COMMANDED && dst_state == FREE ->       /* reserve_decode, expect: Grant */
#ifndef ONLY_I1
#ifndef NO_DST_PIN
      assert(dst_pins == 0);                                       /* I3 */
#endif
#endif
      d_role[x] = HOLDING; dst_state = RECEIVING; dst_owner = x; dst_gen++; k = 0;
      do :: k < NC -> dst_data[k] = 0; k++ :: else -> break od; k = 0;
      grant_gen[x] = dst_gen; grant_epoch[x] = epoch; r_state[x] = EXPECTING; net_grant[x] = 1 }
  :: d_step { net_open[x] ->                                       /* Opened */
      net_open[x] = 0;
      look_up(x);
      if :: found != NOBODY && r_state[found % NX] == EXPECTING -> r_state[found] = R_RECEIVING :: else fi; found = 0 }
  :: atomic { net_seal[x] ->                                       /* SealGot */
      if :: net_seal[x] = 0 :: dups > 0 -> dups-- fi;
      look_up(x);
      if :: found == x && r_state[x] == R_RECEIVING -> r_sealed[x] = 1; verify(x)
         :: found == x && r_state[x] == R_COMMITTED -> net_commit[x] = 1
         :: else fi; found = 0 }
  :: d_step { net_abort_d[x] ->                                    /* AbortGot, Ended */
      net_abort_d[x] = 0;
      look_up(x);
      if :: found == x && r_state[x] < VERIFIED -> forget(x); d_failed[x] = 1
         :: found == x && r_state[x] == R_COMMITTED -> forget(x)
         :: else fi; found = 0 }
  :: d_step { net_ack[x] ->                                        /* CommitAckGot */
      net_ack[x] = 0;
      look_up(x);
      if :: found == x && r_state[x] == R_COMMITTED -> forget(x) :: else fi; found = 0 }
  :: d_step { r_state[x] == EXPECTING || r_state[x] == R_RECEIVING -> fail_receiver(x) }   /* Tick: deadline, idle */
  :: d_step { r_state[x] == VERIFIED -> r_state[x] = R_COMMITTED; d_ready[x] = 1; net_commit[x] = 1 }     /* Adopted */
  :: d_step { r_state[x] == R_COMMITTED && !net_commit[x] && !net_ack[x] -> net_commit[x] = 1 }   /* Tick: the Commit again */
  :: d_step { r_state[x] == R_COMMITTED -> forget(x) }                                     /* Tick: given up */
  /* the engine thread */
  :: d_step { d_ready[x] ->                                        /* commit_handover */
      d_ready[x] = 0;
      if :: d_role[x] == HOLDING ->
#ifndef ONLY_I1
            assert(dst_owner == x && dst_state == RECEIVING && dst_pins == 0);             /* I3 */
#endif
            dst_state = COMMITTED; d_role[x] = RUNNING;
            if :: x == CURRENT(REQUEST(x)) && stage[REQUEST(x)] == PREFILLING -> stage[REQUEST(x)] = DECODING
               :: else fi
         :: else fi }
  :: d_step { d_failed[x] ->                                       /* _on_transfer_failed: AttemptFailed */
      d_failed[x] = 0;
#ifndef NO_FREE_KEY
      if :: d_role[x] == HOLDING -> end_decode(x); report(x) :: else fi }
#else
      end_decode(x); report(x) }
#endif
  :: d_step { d_role[x] == RUNNING ->                              /* a step: reads everything, adds to the last chunk */
      k = 0; do :: k < NC -> assert(dst_data[k] == KV(x)); k++ :: else -> break od; k = 0;       /* I1 */
      dst_data[NC - 1] = GROWN(x); d_role[x] = GROWING }
  :: d_step { d_role[x] == GROWING ->                              /* the last step; the ledger ends the request */
      k = 0; do :: k < NC - 1 -> assert(dst_data[k] == KV(x)); k++ :: else -> break od; k = 0;   /* I1 */
      assert(dst_data[NC - 1] == GROWN(x));                        /* I1 */
      end_decode(x);
      if :: x == CURRENT(REQUEST(x)) && stage[REQUEST(x)] != ENDED ->
            stage[REQUEST(x)] = ENDED; close_attempt(x);
#ifdef REACH_DONE
            assert(x != NX - 1);
#endif
#ifdef REACH_RETRY
            assert(attempt[0] == 0);
#endif
#ifdef REACH_RESTART
            assert(epoch == 0);
#endif
         :: else fi }
  :: d_step { engine_faults > 0 && d_role[x] >= HOLDING && d_role[x] <= GROWING ->   /* the engine fails it by itself */
      engine_faults--; end_decode(x); report(x); d_tell[x] = 1 }
  :: d_step { d_tell[x] -> d_tell[x] = 0; stop_receiving(x) }
  :: d_step { abort_d[x] ->                                        /* DecodeRole.abort */
      abort_d[x] = 0;
      if :: d_role[x] != OVER -> stop_receiving(x); end_decode(x) :: else fi }
  od
}

inline unplaced() {                                                /* ChunkUnplaced */
  if :: r_state[dl_x] < VERIFIED -> fail_receiver(dl_x) :: else fi;
  dl_phase = IDLE; dl_x = 0; dl_frame = 0; dl_c = 0; dl_data = 0
}

proctype ReceiverLink(byte x; byte c) {                            /* chunk c of transfer x */
end: do
  :: atomic { net_chunk[x * NC + c] != 0 && dl_phase == IDLE ->    /* ChunkArrived */
      dl_data = net_chunk[x * NC + c];
      if :: net_chunk[x * NC + c] = 0 :: dups > 0 -> dups-- fi;
      look_up(x);
      if
      :: found == NOBODY -> dl_data = 0                            /* stale_epoch, stale_generation, unknown_transfer */
#ifndef NO_DUP
      :: found != NOBODY && (r_state[found % NX] != R_RECEIVING || (r_landed[found % NX] & (1 << c))) -> dl_data = 0
#else
      :: found != NOBODY && r_state[found % NX] == EXPECTING -> dl_data = 0
#endif
#ifndef NO_GEN
      :: found != NOBODY && grant_gen[x] != grant_gen[found % NX] -> dl_data = 0   /* stale_generation */
#endif
      :: else -> dl_phase = TAKEN; dl_x = found; dl_frame = x; dl_c = c
      fi;
      found = 0 }
  :: d_step { dl_phase == TAKEN && dl_frame == x && dl_c == c ->   /* BlockTable.begin_write */
      if
#ifndef NO_TABLE_GEN
      :: dst_gen != grant_gen[dl_x] -> unplaced()
#endif
#ifndef NO_TABLE_OWNER
#ifdef NO_ATTEMPT
      :: dst_owner == NOBODY || REQUEST(dst_owner) != REQUEST(dl_x) -> unplaced()
#else
      :: dst_owner != dl_x -> unplaced()
#endif
#endif
#ifndef NO_TABLE_STATE
      :: dst_state != RECEIVING -> unplaced()
#endif
      :: else -> dst_pins++; dl_phase = HELD
      fi }
  :: d_step { dl_phase == HELD && dl_frame == x && dl_c == c ->    /* the copy; end_write; ChunkLanded */
#ifndef ONLY_I1
      assert(dst_owner == x || dst_state == RELEASED);             /* I2 */
#endif
      dst_data[c] = dl_data; unpin_dst();
#ifdef REACH_LATE
      assert(dst_state != FREE);
#endif
      if
      :: r_state[dl_x] != R_RECEIVING -> skip
#ifndef NO_DIGEST
      :: r_state[dl_x] == R_RECEIVING && (dl_data != DIGEST(x, c) || dl_frame != dl_x) -> fail_receiver(dl_x)
#endif
      :: else ->
        r_landed[dl_x] = r_landed[dl_x] | (1 << c);
        if :: dl_data != KV(dl_x) -> r_digest[dl_x * NC + c] = dl_data :: else fi;
        verify(dl_x)
      fi;
      dl_phase = IDLE; dl_x = 0; dl_frame = 0; dl_c = 0; dl_data = 0 }
  :: d_step { flips > 0 && net_chunk[x * NC + c] != 0 -> flips--; net_chunk[x * NC + c] = BROKEN }
  od
}

/* --- deaths ------------------------------------------------------------------------------------------------------- */

proctype Crashes() {
  byte x;
end: do
  :: d_step { crashes_d > 0 ->          /* D: a new epoch, generations at 0 again, memory with whatever it held */
      crashes_d--; epoch++;
      dst_state = FREE; dst_owner = NOBODY; dst_gen = 0; dst_pins = 0;
      dl_phase = IDLE; dl_x = 0; dl_frame = 0; dl_c = 0; dl_data = 0;
      x = 0;
      do :: x < NX ->
            if :: d_role[x] != NOTHING && d_role[x] != OVER ->
                  d_role[x] = OVER;
                  if :: x == CURRENT(REQUEST(x)) && stage[REQUEST(x)] != ENDED -> report(x) :: else fi
               :: else fi;
            if :: r_state[x] != NOTHING -> r_state[x] = R_DONE :: else fi;
            r_landed[x] = 0; r_sealed[x] = 0; abort_d[x] = 0;
            net_open[x] = 0; net_seal[x] = 0; net_abort_d[x] = 0; net_ack[x] = 0;
            d_ready[x] = 0; d_failed[x] = 0; d_tell[x] = 0; k = 0;
            do :: k < NC -> r_digest[x * NC + k] = 0; k++ :: else -> break od; k = 0;
            x++
         :: else -> break od;
      x = 0 }
  :: d_step { crashes_p > 0 ->          /* P: what it sent may still arrive */
      crashes_p--;
      src_state = FREE; src_owner = NOBODY; src_gen = 0; src_pins = 0; pl_phase = IDLE; pl_x = 0; pl_c = 0;
      x = 0;
      do :: x < NX ->
            if :: p_role[x] != NOTHING && p_role[x] != OVER ->
                  p_role[x] = OVER;
                  if :: x == CURRENT(REQUEST(x)) && stage[REQUEST(x)] == PREFILLING -> report(x) :: else fi
               :: else fi;
            if :: s_state[x] != NOTHING -> s_state[x] = S_DONE :: else fi;
            s_offered[x] = 0; s_src_gen[x] = 0; s_num_sent[x] = 0; abort_p[x] = 0; p_tell[x] = 0;
            net_grant[x] = 0; net_abort_p[x] = 0; x++
         :: else -> break od;
      x = 0 }
  od
}

/* --- I6: when nothing can happen any more, nothing is held --------------------------------------------------------- */

proctype Quiescence() {
  timeout ->
    assert(src_state == FREE && dst_state == FREE && src_pins == 0 && dst_pins == 0);
    k = 0; do :: k < NR -> assert(stage[k] == ENDED); k++ :: else -> break od
}

init {
  byte i, j;
  atomic {
    i = 0;
    do :: i < NR -> run RequestLedger(i); i++ :: else -> break od;
    i = 0;
    do :: i < NX -> run HandoverSender(i); run HandoverReceiver(i); j = 0;
          do :: j < NC -> run ReceiverLink(i, j); j++ :: else -> break od;
          j = 0; i++
       :: else -> break od;
    i = 0;
#if NCRASH_D + NCRASH_P > 0
    run Crashes();
#endif
    run Quiescence()
  }
}
