/* R9, for a transport that does not exist yet: one-sided writes (RDMA), where the receiver cannot look at a chunk before
 * it lands. Then a freed destination block waits in QUARANTINE until no writer can reach it any more.
 *
 * Not a model of code: Tandem's transports are two-sided (R1), so kv.pml holds. It is kept, with its mutants, for the
 * day somebody adds one. Written against an older picture of the protocol: requests, not attempts, name a transfer.
 *   NO_GEN    a write lands whatever the block's generation is: nobody is there to compare (always set in these runs)
 *   QUAR      a freed block waits until its writers are done; without more, a writer counts from when it starts
 *   QGRANT    the writer is counted when the grant is made
 *   QDRAIN    ... and is done only when its last write has landed (remote completion)
 *   QTIMEOUT  a quarantined block is taken back on a timer
 *   SDIE      a writer may die silently
 *   REACH     a finished request is reached
 */
#ifndef NR
#define NR 2
#endif
#ifndef NP
#define NP 5
#endif
#ifndef NDUP
#define NDUP 1
#endif
#ifndef NCRASH
#define NCRASH 1
#endif
#ifndef NCAN
#define NCAN 1
#endif
#define NB 1
#define NC 2
#define MAXEP 2
#define NONE 15

mtype = { GRANT, CHUNK, COMMIT };
/* type, req, blk, gen, epoch, chunk, content */
chan grants = [2] of { byte, byte, byte, byte };           /* req blk gen epoch */
chan net    = [2] of { mtype, byte, byte, byte, byte, byte, byte };

/* request: 0 new 1 prefilled 2 granted/receiving 3 decoding 4 done 5 failed/cancelled */
byte rs[NR];
byte tries[NR];
/* prefill side: one source block */
byte p_owner = NONE; byte p_data = NONE; byte p_gen = 0; byte p_of[NR]; 
/* decode side */
byte d_state[NB];  /* 0 free 1 recv 2 decoding 3 quarantined */
byte d_owner[NB] = NONE; byte d_gen[NB]; byte d_got[NB]; byte d_commit[NB];
byte d_data[NB*NC] = NONE;
byte epoch = 0; byte dups = NDUP; byte crashes = NCRASH; byte cancels = NCAN;
byte live_senders[NB]; bit dead_writer = 0;

inline d_free(b) {
  d_owner[b] = NONE; d_got[b] = 0; d_commit[b] = 0;
#ifdef QUAR
  #ifdef QDRAIN
  if :: live_senders[b] > 0 || len(net) > 0 -> d_state[b] = 3 :: else -> d_state[b] = 0 fi;
#else
  if :: live_senders[b] > 0 -> d_state[b] = 3 :: else -> d_state[b] = 0 fi;
#endif
#else
  d_state[b] = 0;
#endif
}

proctype Sender(byte r; byte b; byte g; byte e; byte pg) {
  byte c; byte v;
  c = 0;
  do
  :: c < NC ->
#ifdef SDIE
     if :: true :: goto died fi;
#endif
     atomic {
       if :: (p_gen != pg || p_owner != r) -> goto out :: else fi;
       v = p_data;
     }
     net ! CHUNK, r, b, g, e, c, v;
     c++
  :: else -> break
  od;
  net ! COMMIT, r, b, g, e, 0, 0;
out:
  atomic { if :: live_senders[b] > 0 -> live_senders[b]-- :: else fi; 
#ifdef QUAR
   if :: d_state[b]==3 && live_senders[b]==0 && len(net)==0 -> d_state[b]=0 :: else fi;
#endif
  }
died: skip
#ifdef SDIE
  ; dead_writer = 1
#endif
}

active proctype Prefill() {
  byte r; byte b; byte g; byte e;
end: do
  :: atomic { p_owner == NONE -> select (r : 0 .. NR-1);
       if :: rs[r]==0 && p_gen < 4 -> p_owner = r; p_gen++; p_data = r*4+tries[r]; p_of[r] = p_gen; rs[r] = 1 :: else fi; r=0 }
  :: atomic { p_owner != NONE -> p_owner = NONE }            /* lease expiry / release at any time */
  :: atomic { grants ? r, b, g, e; if :: _nr_pr < NP ->
#ifndef QGRANT
            live_senders[b]++;
#endif
            run Sender(r,b,g,e,p_of[r])
          :: else ->
#ifdef QGRANT
            live_senders[b]--;
            if :: d_state[b]==3 && live_senders[b]==0 && len(net)==0 -> d_state[b]=0 :: else fi
#else
            skip
#endif
          fi; r=0;b=0;g=0;e=0 }
  od
}

active proctype Decode() {
  byte r; byte b; byte g; byte e; byte c; byte v; byte i; mtype t;
end: do
  /* allocate */
  :: atomic { select (r : 0 .. NR-1); b = 0;
       if :: rs[r]==1 && d_state[b]==0 && d_gen[b] < 5 && len(grants) < 2 ->
            d_gen[b]++; d_state[b]=1; d_owner[b]=r; d_got[b]=0; d_commit[b]=0; rs[r]=2;
#ifdef QGRANT
            live_senders[b]++;
#endif
            grants ! r, b, d_gen[b], epoch
       :: else fi; r=0;b=0 }
  /* reorder */
  :: atomic { len(net) > 1 -> net ? t, r, b, g, e, c, v; net ! t, r, b, g, e, c, v; t=CHUNK;r=0;b=0;g=0;e=0;c=0;v=0 }
  /* receive */
  :: atomic { net ? t, r, b, g, e, c, v ->
       if :: dups > 0 -> dups--; net ! t, r, b, g, e, c, v :: true fi;     /* duplicate */
       if
       :: true  /* lost */
       :: true ->
          if
          :: e != epoch -> skip
#ifndef NO_GEN
          :: g != d_gen[b] || d_state[b] == 0 || d_owner[b] != r -> skip
#endif
          :: else ->
             if :: t == CHUNK -> d_data[b*NC+c] = v; 
                   if :: d_state[b]==1 -> d_got[b] = d_got[b] | (1<<c) :: else fi
                :: t == COMMIT && d_state[b]==1 -> d_commit[b] = 1
                :: else fi
          fi
       fi; t=CHUNK;r=0;b=0;g=0;e=0;c=0;v=0 }
  /* start decode */
  :: atomic { b = 0; d_state[b]==1 && 
       d_got[b] == (1<<NC)-1
       -> d_state[b]=2; rs[d_owner[b]]=3 }
  /* decode step: every chunk must be the owner's */
  :: atomic { b = 0; d_state[b]==2 ->
       i = 0; do :: i < NC -> assert(d_data[b*NC+i] == d_owner[b]*4+tries[d_owner[b]]); i++ :: else -> break od;
       if :: true :: rs[d_owner[b]] = 4; d_free(b);
#ifdef REACH
            assert(false)
#else
            skip
#endif
       fi; i=0 }
  /* cancel or timeout in any state: free at once; a first failure may be retried as a new attempt */
  :: atomic { b = 0; (d_state[b]==1 || d_state[b]==2) && cancels > 0 -> cancels--;
       if :: tries[d_owner[b]] == 0 -> tries[d_owner[b]]++; rs[d_owner[b]] = 0
          :: true -> rs[d_owner[b]] = 5 fi;
       d_free(b) }
#ifdef QUAR
#ifdef SDIE
  :: atomic { d_state[0]==3 && dead_writer && len(net)==0 -> assert(false) }   /* leak: nobody will ever free it */
#endif
#ifdef QDRAIN
  :: atomic { d_state[0]==3 && live_senders[0]==0 && len(net)==0 -> d_state[0]=0 }
#endif
#ifdef QTIMEOUT
  :: atomic { d_state[0]==3 -> d_state[0]=0 }                    /* reclaim on a timer */
#endif
#endif
  /* crash and restart: generations restart from 0, contents are whatever they were */
  :: atomic { crashes > 0 && epoch < MAXEP -> crashes--; epoch++; b = 0;
       if :: d_owner[b] != NONE -> if :: tries[d_owner[b]] == 0 -> tries[d_owner[b]]++; rs[d_owner[b]] = 0 :: true -> rs[d_owner[b]] = 5 fi :: else fi;
       d_state[b]=0; d_owner[b]=NONE; d_got[b]=0; d_commit[b]=0; d_gen[b]=0 }
  od
}
