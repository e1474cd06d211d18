/* api_transactions.c: the public calls about transactions, those in two phases, too. */
#include "api.h"
#include "lifecycle.h"

OMENDB_API int omendb_txn_begin(omendb *db, int mode, omendb_txn **txn)
{
    if (txn == NULL)
        return api_null("txn");
    *txn = NULL;
    int code = api_database(db);
    if (code == OMENDB_OK && mode != OMENDB_READ_ONLY && mode != OMENDB_READ_WRITE)
        return error_set(OMENDB_INVALID,
                         "mode is %d; it must be OMENDB_READ_ONLY or OMENDB_READ_WRITE", mode);
    if (code != OMENDB_OK)
        return code;
    struct work_wait wait = {0};
    code = txn_begin(db, mode, txn);
    while (code == OMENDB_NOMEM && work_relieve(db, &wait))
        code = txn_begin(db, mode, txn);
    return code;
}

static void api_end_txn(omendb_txn *txn)
{
    omendb *db = txn->db;
    txn_end(txn);
    database_child_done(db);
}

static int api_open_txn(const omendb_txn *txn)
{
    if (txn == NULL)
        return api_null("txn");
    if (!handle_is(txn, TXN_MAGIC))
        return error_set(OMENDB_MISUSE, "txn is not an open transaction");
    if (txn->db->process != platform_process())
        return error_set(OMENDB_MISUSE, "the transaction belongs to the parent of this process");
    return OMENDB_OK;
}

/* Commits, or prepares, and ends it. */
static int api_commit_txn(omendb_txn *txn, const char *prepare_as)
{
    struct work_wait wait = {0};
    int code = txn_commit(txn, prepare_as);
    while (code == OMENDB_NOMEM && work_relieve(txn->db, &wait))
        code = txn_commit(txn, prepare_as);
    omendb *db = txn->db;
    int wrote = txn->write_count != 0;
    txn_end(txn);
    if (code == OMENDB_OK && wrote)
        work_reclaim(db);
    database_child_done(db);
    return code;
}

OMENDB_API int omendb_txn_commit(omendb_txn *txn)
{
    int code = api_open_txn(txn);
    return code == OMENDB_OK ? api_commit_txn(txn, NULL) : code;
}

OMENDB_API void omendb_txn_rollback(omendb_txn *txn)
{
    if (txn != NULL && handle_is(txn, TXN_MAGIC) && txn->db->process == platform_process())
        api_end_txn(txn);
}

/* ------------------------------------------------------------------ prepared transactions */

OMENDB_API int omendb_txn_prepare(omendb_txn *txn, const char *name)
{
    int code = api_open_txn(txn);
    if (code == OMENDB_OK)
        code = api_name(name, "a prepared transaction");
    if (code == OMENDB_OK && txn->mode == OMENDB_READ_ONLY)
        code = error_set(OMENDB_READONLY, "the transaction was begun read-only");
    return code == OMENDB_OK ? api_commit_txn(txn, name) : code;
}

static int api_finish_prepared(omendb *db, const char *name, uint32_t state)
{
    int code = api_database(db);
    if (code == OMENDB_OK)
        code = api_name(name, "a prepared transaction");
    if (code != OMENDB_OK)
        return code;
    struct work_wait wait = {0};
    code = prepared_finish(db, name, state);
    while (code == OMENDB_NOMEM && work_relieve(db, &wait))
        code = prepared_finish(db, name, state);
    if (code == OMENDB_OK && state == OMENDB_PREPARED_COMMITTED)
        work_reclaim(db);
    return code;
}

OMENDB_API int omendb_commit_prepared(omendb *db, const char *name)
{
    return api_finish_prepared(db, name, OMENDB_PREPARED_COMMITTED);
}

OMENDB_API int omendb_rollback_prepared(omendb *db, const char *name)
{
    return api_finish_prepared(db, name, OMENDB_PREPARED_ROLLED_BACK);
}

OMENDB_API int omendb_forget_prepared(omendb *db, const char *name)
{
    return api_finish_prepared(db, name, PREPARED_FORGOTTEN);
}

OMENDB_API int omendb_prepared_name(omendb *db, size_t index, char *name, size_t capacity,
                                    int *state)
{
    int code = api_database(db), ignored;
    if (code != OMENDB_OK)
        return code;
    if (name == NULL)
        return api_null("name");
    return prepared_name(db, index, name, capacity, state == NULL ? &ignored : state);
}
