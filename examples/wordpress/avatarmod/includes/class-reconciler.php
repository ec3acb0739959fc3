<?php
/**
 * Asks the service what became of pictures, for callbacks that never came.
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

/** Reads the list of changes from where it was read last. */
final class Reconciler {

	private const MOST_PAGES = 50;

	/**
	 * Take over everything since the last time; how many verdicts were news.
	 *
	 * A page with a verdict that a handler did not take is read again the next time; those behind it
	 * are taken all the same.
	 */
	public static function run(): int {
		$api = Api::of_site();
		if ( null === $api ) {
			return 0;
		}
		$cursor = (string) Settings::noted( 'cursor' );
		$news   = 0;
		$failed = false;
		for ( $page = 0; $page < self::MOST_PAGES; ++$page ) {
			$answer = $api->changes( $cursor );
			if ( 410 === $answer->status && '' !== $cursor ) {
				// Away for longer than changes are listed, or the service lost its data.
				$news  += self::ask_for_each( $api );
				$cursor = '';
				continue;
			}
			Settings::note( 'reconcile_error', $answer->error );
			if ( ! $answer->is_ok() ) {
				return $news;
			}
			foreach ( $answer->data['changes'] as $change ) {
				try {
					$news += (int) Verdicts::take( $change['data'] );
				} catch ( \Throwable $error ) {
					$failed = true;
					Settings::note( 'handler_error', $error->getMessage() );
				}
			}
			$cursor = (string) $answer->data['cursor'];
			if ( ! $failed ) {
				Settings::note( 'cursor', $cursor );
			}
			if ( empty( $answer->data['more'] ) ) {
				break;
			}
		}
		if ( ! $failed ) {
			Settings::note( 'handler_error', null );
		}
		Settings::note( 'reconciled_at', time() );
		return $news;
	}

	/** What became of every picture that waits; one that the service lost is sent again. */
	private static function ask_for_each( Api $api ): int {
		$news = 0;
		foreach ( Sender::users( array( 'queued', 'reviewing', 'held', 'dead' ), 1000 ) as $user_id ) {
			$record = Record::of( $user_id );
			$answer = $api->avatar( $record->upload_id );
			if ( $answer->is_ok() ) {
				$news += (int) Verdicts::take( $answer->data['data'] );
			} elseif ( 404 === $answer->status ) {
				$record->begin( $record->upload_id, $record->stamp );
				$record->save();
			}
		}
		return $news;
	}
}
